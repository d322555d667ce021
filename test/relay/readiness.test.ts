import { expect } from 'vitest'
import type { LogLine } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { through } from './proxied-relay.js'
import { STREAM, saved } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'

test.concurrent('a relay that has reached Redis and has not taken over its heads says starting; streaming once it has', async ({
  createEnv,
  onTestFinished,
}) => {
  const { env, proxy, start } = await through('redis', { createEnv, onTestFinished })
  const first = await start()
  await saved(env, 1, await env.insert(STREAM))
  await first.stop()
  const locker = await env.database.connect()
  onTestFinished(() => locker.end())

  proxy.refuse()
  const relay = await start()
  await relay.is({ role: 'active', state: 'blocked' })
  await locker.query('begin; lock table outrider.head')
  await proxy.accept()
  await until(async () => (await relay.metric('outrider_epochs_total')) === 1)
  await relay.is({ role: 'active', state: 'starting' })
  expect(relay.logs.map(({ msg }) => msg)).not.toContain('streaming')
  await locker.query('rollback')
  await relay.streaming()
})

test.concurrent('a relay whose sessions end again soon after they begin says so, not streaming, until one has lasted for 10 s', async ({
  env,
}) => {
  const relay = await env.streamingRelay()
  const began = (sessions: number) =>
    until(async () => ((await relay.metric('outrider_sessions_total')) ?? 0) >= sessions, {
      message: () => `${sessions} sessions\n${relay.tail(10)}`,
    })
  const interrupt = async () => env.postgres.query('select pg_terminate_backend($1, 5000)', [await env.walsender()])
  const streaming = (times: number) => relay.logged(({ msg }) => msg === 'streaming', times)
  await interrupt()
  await began(2)
  await relay.streaming()
  await interrupt()
  for (const sessions of [3, 4]) {
    await began(sessions)
    expect(await relay.status()).toMatchObject({ code: 503, role: 'starting', state: 'reconnecting' })
    if (sessions < 4) await interrupt()
  }
  expect(await streaming(2)).toHaveLength(2)
  await relay.streaming()
  const lastOf = (lines: LogLine[]) => Date.parse(String(lines.at(-1)?.time))
  const sessionBegan = lastOf(await relay.logged(({ msg }) => msg === 'session began', 4))
  const lines = await streaming(3)
  expect(lines).toHaveLength(3)
  expect(lastOf(lines) - sessionBegan).toBeGreaterThan(9_000)
  expect(await relay.metric('outrider_sessions_total')).toBe(4)
})
