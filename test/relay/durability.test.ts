import { expect } from 'vitest'
import { needsProcess, redisVersion, startRedis, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { Traffic } from './traffic.js'

const durable = { appendonly: 'yes', appendfsync: 'everysec' }

test.concurrent('auto takes fsync where Redis has an append-only file, and what was confirmed survives its death at any time', async ({
  createEnv,
  skip,
}) => {
  const version = await redisVersion({ skip }, '8.0')
  if (!version) return
  const redis = await startRedis({ version, settings: durable })
  const env = await createEnv({ redis })
  const traffic = await Traffic.start(env)
  const relay = await env.streamingRelay()
  await until(async () => (await relay.metric('outrider_durability_level{level="fsync"}')) === 1)
  await relay.logged(({ msg, durability }) => msg === 'durability level' && durability === 'fsync')
  for (let kill = 0; kill < 5; kill++) {
    const before = await env.confirmed()
    await until(async () => (await env.confirmed()) !== before, { message: 'something to be confirmed' })
    await redis.kill()
    await redis.start()
    // Right after it came up, and before anything is published again: what is confirmed must be there.
    await traffic.sample()
    await relay.streaming()
  }
  await traffic.finish()
  expect(await relay.metric('outrider_epochs_total')).toBeGreaterThanOrEqual(5)
  const { rows } = await env.postgres.query('select * from outrider.incident')
  expect(rows).toEqual([])
})

test.concurrent('replicated: nothing is confirmed without the replica', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const replica = await startRedis({ replicaOf: redis })
  try {
    const env = await createEnv({ redis })
    await until(async () => /state=online/.test(await env.redis.info('replication')), { message: 'the replica' })
    const relay = await env.streamingRelay({ OUTRIDER_DURABILITY: 'replicated' })
    await env.insert('orders')
    await until(() => env.isConfirmed('orders'), { message: 'the slot to move' })

    await replica.freeze()
    const id = await env.insert('orders')
    await relay.is({ role: 'active', state: 'blocked', reason: 'durability' })
    expect(await env.ids('orders')).toContain(id)
    expect(await env.isConfirmed('orders')).toBe(false)
    await replica.thaw()
    await relay.streaming()
    await until(() => env.isConfirmed('orders'), { message: 'the slot to move again' })
    const client = replica.client()
    expect(await client.xlen('orders')).toBe(2)
    client.disconnect()
  } finally {
    await replica.remove()
  }
})
