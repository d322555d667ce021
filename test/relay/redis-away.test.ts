import { expect } from 'vitest'
import { type Database, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

/** Writes 2 MiB of WAL that is nobody's event. */
async function writeElsewhere(database: Database): Promise<void> {
  await database.query('create table if not exists elsewhere (text text)')
  await database.query("insert into elsewhere select repeat('x', 1000) from generate_series(1, 2000)")
}

/** Waits until the slot stands where the outbox has nothing more to say. */
async function confirmedTo(env: RelayEnv, lsn: string): Promise<void> {
  const past = 'select $2::pg_lsn - confirmed_flush_lsn <= 16384 as past from pg_replication_slots where slot_name = $1'
  await until(async () => (await env.postgres.query(past, [env.slot, lsn])).rows[0].past, {
    timeout: 20_000,
    message: `the slot at ${lsn}`,
  })
}

/** Waits until what was published to so many streams is proven and saved. */
const headsSaved = (env: RelayEnv, streams: number) =>
  until(async () => (await env.postgres.query('select from outrider.head')).rowCount === streams, { timeout: 20_000 })

const writtenWal = async (env: RelayEnv): Promise<string> =>
  (await env.postgres.query('select pg_current_wal_lsn()::text as lsn')).rows[0].lsn

/** Keepalives come often, and with them the occasion to confirm. */
const keepalivesOften = (env: RelayEnv) =>
  env.postgres.query(`alter role relay_${env.database.name} set wal_sender_timeout = '2s'`)

/** Waits until the relay has told Postgres so many times more where it is. */
async function statusSent(env: RelayEnv, times: number): Promise<void> {
  const replies = new Set<string>()
  const reply = 'select reply_time::text as time from pg_stat_replication where pid = $1'
  const walsender = await env.walsender()
  await until(
    async () => replies.add((await env.postgres.query(reply, [walsender])).rows[0]?.time) && replies.size > times,
  )
}

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
  await next.streaming(30_000)
  await until(async () => (await env.ids('orders')).length > 0, { timeout: 20_000 })
  expect(await env.ids('orders')).toEqual([id])
  await confirmedTo(env, await writtenWal(env))
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
  await until(async () => (await env.ids('orders')).length === 2, { timeout: 20_000 })
  expect(await env.ids('orders')).toEqual([first, second])
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
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
  await relay.streaming(30_000)
  await until(async () => (await env.ids('orders')).length === 60, { timeout: 20_000 })
  expect(await env.walsender()).toBe(walsender)
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
  await relay.is({ role: 'halted', reason: 'stream_behind' }, 20_000)
  expect(await env.ids('orders')).toEqual([])
  expect(await env.ids('payments')).toEqual([])
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
  await until(async () => (await env.ids('orders')).length > 0, { timeout: 20_000 })
  expect(await env.ids('orders')).toEqual([small])
  const { rows } = await env.postgres.query('select reason from outrider.incident')
  expect(rows).toEqual([{ reason: 'too_large_for_redis' }])
})
