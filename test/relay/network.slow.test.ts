import { expect } from 'vitest'
import { startProxy, until } from '../../testkit/services/index.js'
import { through } from './proxied-relay.js'
import { relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

test.concurrent.for([['up'], ['down']] as const)(
  'Redis half-open, what goes %s is swallowed: given up after a while, and everything arrives once',
  async ([direction], { createEnv, onTestFinished }) => {
    const { env, proxy, start } = await through('redis', { createEnv, onTestFinished })
    const relay = await start()
    const traffic = await Traffic.start(env)
    await relay.streaming()
    await traffic.more(200)
    const walsender = await env.walsender()
    proxy.swallow(direction)
    await relay.is({ role: 'active', state: 'blocked', reason: 'redis_timeout' })
    await traffic.sample()
    // What was open stays as it is, as behind a firewall that forgot it; new connections work.
    proxy.resume()
    await relay.streaming()
    await traffic.more(100)
    await traffic.finish()
    expect(await env.walsender()).toBe(walsender)
    expect(await relay.metric('outrider_sessions_total')).toBe(1)
  },
)

test.concurrent.for([['up'], ['down']] as const)(
  'Postgres half-open, what goes %s is swallowed: given up after a while, and everything arrives once',
  async ([direction], { createEnv, onTestFinished }) => {
    const { env, proxy, start } = await through('postgres', { createEnv, onTestFinished })
    await env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)
    const relay = await start()
    await relay.streaming()
    const traffic = await Traffic.start(env)
    await traffic.more(200)
    const walsender = await env.walsender()
    proxy.swallow(direction)
    await until(async () => relay.logs.some(({ msg }) => msg.startsWith('reconnecting')), {
      message: () => `the relay to give up\n${relay.tail(10)}`,
    })
    proxy.resume()
    await relay.streaming()
    await traffic.more(100)
    await traffic.finish()
    expect(await env.walsender()).not.toBe(walsender)
  },
)

test.concurrent('Postgres half-open under a standby: it is no longer ready, and stands by again once it is back', async ({
  env,
  onTestFinished,
}) => {
  await env.streamingRelay()
  const url = env.variables.OUTRIDER_POSTGRES_URL as string
  const proxy = await startProxy(Number(new URL(url).port))
  onTestFinished(() => proxy.close())
  const standby = await env.relay({ OUTRIDER_POSTGRES_URL: proxy.url(url) })
  await standby.is({ role: 'standby' })
  proxy.pause()
  await standby.is({ role: 'starting', reason: 'postgres_unreachable' })
  expect(await standby.status()).toMatchObject({ code: 503 })
  proxy.resume()
  await standby.is({ role: 'standby' })
})

test.concurrent('Postgres half-open under a relay that has the lock and waits for Redis: it is no longer ready', async ({
  env,
  onTestFinished,
}) => {
  await env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)
  const urls = {
    postgres: env.variables.OUTRIDER_POSTGRES_URL as string,
    redis: env.variables.OUTRIDER_REDIS_URL as string,
  }
  const postgres = await startProxy(Number(new URL(urls.postgres).port))
  const redis = await startProxy(Number(new URL(urls.redis).port))
  onTestFinished(() => Promise.all([postgres.close(), redis.close()]).then(() => {}))
  redis.refuse()
  const relay = await env.relay({
    OUTRIDER_POSTGRES_URL: postgres.url(urls.postgres),
    OUTRIDER_REDIS_URL: redis.url(urls.redis),
  })
  await relay.is({ role: 'active', state: 'blocked' })
  postgres.pause()
  await relay.is({ role: 'starting', reason: 'postgres_unreachable' })
  postgres.resume()
  await redis.accept()
  await relay.streaming()
})

test.concurrent('a link to Redis too slow for a batch within the reply deadline: everything arrives in the end', async ({
  createEnv,
  onTestFinished,
}) => {
  const { env, proxy, start } = await through('redis', { createEnv, onTestFinished })
  const traffic = await Traffic.start(env, {
    streams: ['orders'],
    writers: 1,
    every: 0,
    events: 250,
    payload: (random) => JSON.stringify({ n: random(), text: 'x'.repeat(1_000) }),
  })
  // Committed before it begins, so that batches are full.
  await until(() => traffic.committed >= 250)
  proxy.limit(16_000, 'up')
  const relay = await start()
  await relay.is({ role: 'active', state: 'blocked', reason: 'redis_timeout' })
  const walsender = await env.walsender()
  await traffic.finish()
  expect(proxy.passed('up')).toBeGreaterThan(250_000)
  expect(await env.walsender()).toBe(walsender)
})

test.concurrent.for([['redis'], ['postgres']] as const)(
  'the connection to %s in pieces of 1 to 7 bytes',
  async ([which], { createEnv, onTestFinished }) => {
    const { env, proxy, start } = await through(which, { createEnv, onTestFinished })
    const relay = await start()
    proxy.slice()
    const traffic = await Traffic.start(env, { writers: 1, events: 500 })
    await traffic.more(500)
    await traffic.finish()
    expect(proxy.passed('up') + proxy.passed('down')).toBeGreaterThan(100_000)
    expect(await relay.metric('outrider_sessions_total')).toBe(1)
  },
)
