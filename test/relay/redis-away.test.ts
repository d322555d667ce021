import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

test('a relay that starts while Redis is down tells of the WAL that piles up meanwhile, and goes on when it is there', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await redis.stop()
  const relay = await env.relay()
  await until(async () => (await relay.metric('outrider_slot_lag_bytes')) !== undefined, { timeout: 20_000 })
  const before = (await relay.metric('outrider_slot_lag_bytes')) as number
  await env.insert('orders', 'x'.repeat(1_000_000))
  // Stored compressed: what counts is that it is seen to grow.
  await until(async () => ((await relay.metric('outrider_slot_lag_bytes')) as number) > before, { timeout: 20_000 })
  await redis.start()
  await relay.streaming(30_000)
  await until(async () => (await env.ids('orders')).length === 1, { timeout: 20_000 })
})

test('a publication that is dropped while a relay waits for Redis is a gap at once', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await redis.stop()
  const relay = await env.relay()
  await relay.is({ role: 'active', state: 'blocked' }, 20_000)
  await env.postgres.query('drop publication outrider')
  await relay.is({ role: 'halted', reason: 'publication_missing' }, 20_000)
  expect(await relay.stop()).toBe(0)
})
