import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

test('Redis that refuses what an epoch begins with: tried again and again, and no connection is left behind', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis, partitions: { orders: 4 } })
  await redis.config('maxmemory', '1')
  const relay = await env.relay()
  await relay.is({ role: 'active', state: 'blocked', reason: 'redis_oom' })
  const clients = async () =>
    String(await env.redis.client('LIST')).match(new RegExp(`outrider-${env.slot}`, 'g')) ?? []
  const attempts = async () => Number(/total_connections_received:(\d+)/.exec(await env.redis.info('stats'))?.[1])
  const before = await attempts()
  await until(async () => {
    expect((await clients()).length).toBeLessThan(3)
    return (await attempts()) >= before + 4
  })
  await redis.config('maxmemory', '0')
  await relay.streaming()
  expect((await clients()).length).toBeLessThan(3)
})
