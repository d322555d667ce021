import { expect } from 'vitest'
import { redisVersion, startRedis, until } from '../../testkit/services/index.js'
import { test } from './fixture.js'
import { Traffic } from './traffic.js'

const durable = { appendonly: 'yes', appendfsync: 'everysec' }

test.concurrent('auto takes fsync where Redis has an append-only file, and what was confirmed survives its death at any time', {
  timeout: 60_000,
}, async ({ scenario, skip }) => {
  const version = await redisVersion({ skip }, 8)
  if (!version) return
  const redis = await startRedis({ version, settings: durable })
  const s = await scenario({ redis })
  const traffic = await Traffic.start(s)
  const relay = await s.relay()
  await relay.streaming()
  await until(async () => (await relay.metric('outrider_durability_level{level="fsync"}')) === 1)
  expect(relay.logs).toContainEqual(expect.objectContaining({ msg: 'durability level', durability: 'fsync' }))
  for (let kill = 0; kill < 5; kill++) {
    const before = await s.confirmed()
    await until(async () => (await s.confirmed()) !== before, { message: 'something to be confirmed' })
    await redis.kill()
    await redis.start()
    // Right after it came up, and before anything is published again: what is confirmed must be there.
    await traffic.sample()
    await relay.streaming()
  }
  await traffic.finish()
  expect(await relay.metric('outrider_epochs_total')).toBeGreaterThanOrEqual(5)
  const { rows } = await s.postgres.query('select * from outrider.incident')
  expect(rows).toEqual([])
})

test.concurrent('a level that cannot be met blocks confirming, visibly, and confirming goes on once it can', {
  timeout: 60_000,
}, async ({ scenario, skip }) => {
  const version = await redisVersion({ skip }, 8)
  if (!version) return
  const redis = await startRedis({ version })
  const s = await scenario({ redis })
  const relay = await s.relay({ OUTRIDER_DURABILITY: 'fsync' })
  await relay.streaming()
  const before = await s.confirmed()
  const id = await s.insert('orders')
  await until(async () => (await s.ids('orders')).includes(id), { message: 'the event to be published meanwhile' })
  await relay.is({ role: 'active', state: 'blocked', reason: 'durability' })
  expect(await relay.status()).toMatchObject({ code: 200, message: expect.any(String) })
  // A fault of Redis in between does not hide it.
  await s.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until(async () => ((await relay.metric('outrider_epochs_total')) ?? 0) > 1)
  await relay.is({ role: 'active', state: 'blocked', reason: 'durability' })
  expect(await s.confirmed()).toBe(before)

  await redis.config('appendonly', 'yes')
  await relay.streaming()
  await until(async () => (await s.confirmed()) !== before, { message: 'confirming to go on' })
})

test.concurrent('replicated: nothing is confirmed without the replica', { timeout: 60_000 }, async ({
  scenario,
  skip,
}) => {
  const version = await redisVersion({ skip }, 7)
  if (!version) return
  const redis = await startRedis({ version })
  const replica = await startRedis({ replicaOf: redis })
  try {
    const s = await scenario({ redis })
    await until(async () => /state=online/.test(await s.redis.info('replication')), { message: 'the replica' })
    const relay = await s.relay({ OUTRIDER_DURABILITY: 'replicated' })
    await relay.streaming()
    const first = await s.confirmed()
    await s.insert('orders')
    await until(async () => (await s.confirmed()) !== first, { message: 'the slot to move' })

    await replica.freeze()
    const second = await s.confirmed()
    const id = await s.insert('orders')
    await relay.is({ role: 'active', state: 'blocked', reason: 'durability' })
    expect(await s.ids('orders')).toContain(id)
    expect(await s.confirmed()).toBe(second)
    await replica.thaw()
    await relay.streaming()
    await until(async () => (await s.confirmed()) !== second, { message: 'the slot to move again' })
    const client = replica.client()
    expect(await client.xlen('orders')).toBe(2)
    client.disconnect()
  } finally {
    await replica.remove()
  }
})
