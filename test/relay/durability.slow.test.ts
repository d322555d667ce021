import { expect } from 'vitest'
import { redisVersion, startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

test.concurrent('a level that cannot be met blocks confirming, visibly, and confirming continues once it can', async ({
  createEnv,
  skip,
}) => {
  const version = await redisVersion({ skip }, '8.0')
  if (!version) return
  const redis = await startRedis({ version })
  const env = await createEnv({ redis })
  const relay = await env.streamingRelay({ OUTRIDER_DURABILITY: 'fsync' })
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).includes(id), { message: 'the event to be published meanwhile' })
  await relay.is({ role: 'active', state: 'blocked', reason: 'durability' })
  expect(await relay.status()).toMatchObject({ code: 200, message: expect.any(String) })
  // A fault of Redis in between does not hide it.
  await env.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until(async () => ((await relay.metric('outrider_epochs_total')) ?? 0) > 1)
  await relay.is({ role: 'active', state: 'blocked', reason: 'durability' })
  expect(await env.isConfirmed('orders')).toBe(false)

  await redis.config('appendonly', 'yes')
  await relay.streaming()
  await until(() => env.isConfirmed('orders'), { message: 'confirming to continue' })
})
