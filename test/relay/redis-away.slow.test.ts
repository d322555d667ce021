import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { confirmedTo, headsSaved, keepalivesOften, statusSent, writeElsewhere, writtenWal } from './redis-away-env.js'
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

test.concurrent('a Redis that closes quiet connections after a second holds nothing up: neither after a quiet spell nor after Redis was away does the relay say that a connection is closed', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { timeout: '1', appendonly: 'yes' } })
  const env = await createEnv({ redis })
  const relay = await env.streamingRelay()
  const blocked = (from = 0) => relay.logs.slice(from).filter(({ msg }) => msg.startsWith('blocked'))
  const connections = async () => [...String(await env.redis.client('LIST')).matchAll(/name=outrider-/g)].length
  const publish = async () => {
    await env.insert('orders')
    const { rows } = await env.postgres.query('select pg_current_wal_insert_lsn()::text as lsn')
    const past = 'select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn >= $2'
    await until(async () => (await env.postgres.query(past, [env.slot, rows[0].lsn])).rowCount === 1)
  }
  for (let spell = 0; spell < 2; spell++) {
    await publish()
    // The one that proves durability is used for that alone.
    await until(async () => (await connections()) === 1, { message: 'the other connection to be closed' })
  }
  await publish()
  expect(blocked()).toEqual([])

  await redis.stop()
  await relay.is({ state: 'blocked' })
  await redis.start()
  await relay.streaming()
  await relay.logged(({ msg }) => msg === 'streaming', 2)
  const from = relay.logs.length
  await publish()
  // The durability level is tried again every few seconds.
  const back = performance.now()
  await until(() => performance.now() - back > 10_000)
  expect(blocked(from)).toEqual([])
})

test('Redis goes down while the outbox is idle: the slot follows all the same', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { appendonly: 'yes' } })
  const env = await createEnv({ redis })
  await keepalivesOften(env)
  const relay = await env.relay({ OUTRIDER_DURABILITY: 'memory' })
  await relay.streaming()
  const first = await env.insert('orders')
  await headsSaved(env, 1)
  await redis.stop()
  await relay.is({ role: 'active', state: 'blocked' })
  await writeElsewhere(env.database)
  await confirmedTo(env, await writtenWal(env))
  const second = await env.insert('orders')
  await redis.start()
  await until(async () => (await env.ids('orders')).length === 2)
  expect(await env.ids('orders')).toEqual([first, second])
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test('a row that is read before Redis says how large one may be becomes an incident once it does', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { 'proto-max-bulk-len': '1mb' } })
  const env = await createEnv({ redis })
  await redis.stop()
  const relay = await env.relay({ OUTRIDER_MAX_EVENT_BYTES: '8MiB' })
  await relay.is({ role: 'active', state: 'blocked' })
  await env.insert('orders', { text: 'x'.repeat(2_000_000) })
  const small = await env.insert('orders')
  await until(async () => (await relay.metric('outrider_events_received_total')) === 2)
  await redis.start()
  await until(async () => (await env.ids('orders')).length > 0)
  expect(await env.ids('orders')).toEqual([small])
  const { rows } = await env.postgres.query('select reason from outrider.incident')
  expect(rows).toEqual([{ reason: 'too_large_for_redis' }])
})
