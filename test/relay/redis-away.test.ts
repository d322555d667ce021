import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { confirmedTo, headsSaved, keepalivesOften, statusSent, writeElsewhere, writtenWal } from './redis-away-env.js'
import { relayTest as test } from './relay-env.js'

test('Redis down at the start, the outbox idle: the slot follows; a row that arrives holds it, and comes once Redis is there', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  await keepalivesOften(env)
  await redis.stop()
  const relay = await env.relay()
  await relay.is({ role: 'active', state: 'blocked', reason: 'redis_unreachable' })
  await writeElsewhere(env.database)
  await confirmedTo(env, await writtenWal(env))

  const id = await env.insert('orders')
  await until(async () => (await relay.metric('outrider_events_received_total')) === 1)
  const written = await writtenWal(env)
  await writeElsewhere(env.database)
  await statusSent(env, 3)
  const before = 'select confirmed_flush_lsn < $2::pg_lsn as before from pg_replication_slots where slot_name = $1'
  expect((await env.postgres.query(before, [env.slot, written])).rows).toEqual([{ before: true }])
  expect((await env.postgres.query('select from outrider.checkpoint')).rowCount).toBe(0)
  // What is in memory alone comes again.
  await relay.kill()
  const next = await env.relay()
  await next.is({ role: 'active', state: 'blocked' })
  await redis.start()
  await next.streaming()
  await until(async () => (await env.ids('orders')).length > 0)
  expect(await env.ids('orders')).toEqual([id])
  await confirmedTo(env, await writtenWal(env))
})

test('Redis comes back empty after rows have waited: the loss is found, and nothing is appended after it', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  const first = await env.relay({ OUTRIDER_DURABILITY: 'memory' })
  await first.streaming()
  for (const stream of ['orders', 'refunds']) await env.insert(stream)
  await headsSaved(env, 2)
  await first.stop()
  await env.redis.flushall()
  await redis.stop()
  const relay = await env.relay()
  await relay.is({ role: 'active', state: 'blocked' })
  await env.insert('orders')
  await env.insert('payments')
  await until(async () => (await relay.metric('outrider_events_received_total')) === 2)
  await redis.start()
  await relay.is({ role: 'halted', reason: 'stream_behind' })
  expect(await env.ids('orders')).toEqual([])
  expect(await env.ids('payments')).toEqual([])
})
