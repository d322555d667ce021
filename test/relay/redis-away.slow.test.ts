import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { keepalivesOften, statusSent } from './redis-away-env.js'
import { relayTest as test } from './relay-env.js'

test('a relay that starts while Redis is down reports the WAL that accumulates, and continues once Redis is there', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await redis.stop()
  const relay = await env.relay()
  await until(async () => (await relay.metric('outrider_slot_lag_bytes')) !== undefined)
  const before = (await relay.metric('outrider_slot_lag_bytes')) as number
  await env.insert('orders', 'x'.repeat(1_000_000))
  // Stored compressed: what counts is that it is seen to grow.
  await until(async () => ((await relay.metric('outrider_slot_lag_bytes')) as number) > before)
  await redis.start()
  await relay.streaming()
  await until(async () => (await env.ids('orders')).length === 1)
})

test('a publication that is dropped while a relay waits for Redis is a gap at once', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await redis.stop()
  const relay = await env.relay()
  await relay.is({ role: 'active', state: 'blocked' })
  await env.postgres.query('drop publication outrider')
  await relay.is({ role: 'halted', reason: 'publication_missing' })
  expect(await relay.stop()).toBe(0)
})

test('more rows than fit into memory while Redis is down at the start: the walsender is kept, and all of them arrive', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await keepalivesOften(env)
  await redis.stop()
  await env.postgres.query(
    `insert into outrider.outbox (stream, type, data)
     select 'orders', 'test.happened', to_json(repeat('x', 500000)) from generate_series(1, 60)`,
  )
  const relay = await env.relay()
  await relay.is({ role: 'active', state: 'blocked' })
  const waits = "select from pg_stat_activity where pid = $1 and wait_event = 'WalSenderWriteData'"
  const walsender = await env.walsender()
  await until(async () => (await env.postgres.query(waits, [walsender])).rowCount === 1)
  await statusSent(env, 5)
  expect(await relay.status()).toMatchObject({ role: 'active', state: 'blocked' })
  await redis.start()
  await relay.streaming()
  await until(async () => (await env.ids('orders')).length === 60)
  expect(await env.walsender()).toBe(walsender)
})
