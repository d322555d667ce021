import { expect } from 'vitest'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { expectComplete, Load } from './load.js'
import { relayTest as test } from './relay-env.js'

test('Postgres killed in mid-stream, twice: after each crash recovery it continues, and nothing is lost or doubled', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  const relay = await env.streamingRelay()
  const load = new Load(database, 'orders')
  for (let crash = 1; crash <= 2; crash++) {
    await load.more(30)
    await server.kill()
    await relay.is({ role: 'starting' })
    expect(await relay.status()).toMatchObject({ code: 503, reason: expect.stringMatching(/^postgres_/) })
    await server.start()
    await relay.streaming()
  }
  await load.more(10)
  await load.stop()
  await expectComplete(env, 'orders')
  expect(await relay.metric('outrider_sessions_total')).toBe(3)
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
  expect(await database.query('select * from outrider.incident')).toEqual([])
})

test('a walsender that is terminated again and again: the relay resumes at once each time', async ({ env }) => {
  const relay = await env.streamingRelay()
  const load = new Load(env.database, 'orders')
  for (let fault = 1; fault <= 5; fault++) {
    await load.more(10)
    // A session is counted before its walsender has the slot.
    await env.postgres.query('select pg_terminate_backend($1)', [await env.walsender()])
    await until(async () => (await relay.metric('outrider_sessions_total')) === fault + 1)
  }
  await load.more(10)
  await load.stop()
  await expectComplete(env, 'orders')
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
})
