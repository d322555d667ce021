import type pg from 'pg'
import { afterAll, afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { setBucketDefault } from '../../src/postgres/setup/bucket-default.js'
import { needsProcess, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { type BucketsEnv, createBucketsEnv } from './buckets-env.js'

const OLD = 3

/** One for all tests of this file. */
let server: Postgres | undefined

let env: BucketsEnv
const others: pg.Client[] = []

beforeEach(async (context) => {
  needsProcess(context)
  server ??= await startPostgres({ settings: { max_prepared_transactions: '5' } })
  env = await createBucketsEnv(server)
  await env.insert(OLD)
})

afterEach(async () => {
  for (const other of others.splice(0)) await other.end().catch(() => {})
  await env?.close()
})

afterAll(() => server?.remove())

async function connect(to = server!): Promise<pg.Client> {
  const other = await to.connect(env.database.name)
  others.push(other)
  return other
}

test('nothing is emptied while a transaction that wrote to the bucket is prepared', async () => {
  await env.client.query('begin')
  const id = await env.insert(OLD)
  await env.client.query("prepare transaction 'orphan'")
  await env.checkpoint(80)
  expect(await env.empty(OLD)).toBe('in_use')
  await env.client.query("commit prepared 'orphan'")
  expect(await env.empty(OLD)).toBe('unproven')
  expect(await env.ids(OLD)).toContain(id)
})

test('what the slot has not confirmed is decoded although the buckets of older rows in the same WAL were emptied', async () => {
  const large = (client = env.client, bucket = OLD) =>
    client.query(
      `insert into outrider.outbox (stream, type, data, bucket)
       select 'orders', 'placed', to_json(string_agg(gen_random_uuid()::text, '')), $1 from generate_series(1, 1000) returning id`,
      [bucket],
    )
  const open = await connect()
  await open.query('begin')
  const ids = [(await large(open, 5)).rows[0].id]
  const { rows } = await env.client.query('select pg_current_wal_insert_lsn() as lsn')
  await large()
  await env.checkpoint(80)
  ids.unshift((await large(env.client, 4)).rows[0].id)
  expect(await env.empty(OLD)).toBeNull()
  await env.client.query('vacuum pg_class')
  await env.client.query('checkpoint')
  await open.query('commit')
  const slot = await env.client.query(
    'select restart_lsn < $2 as lags from pg_replication_slots where slot_name = $1',
    [env.slot, rows[0].lsn],
  )
  expect(slot.rows).toEqual([{ lags: true }])
  const changes = await env.client.query(
    `select data from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'outrider')`,
    [env.slot],
  )
  const inserts = changes.rows.map(({ data }) => data.toString('latin1')).filter((text: string) => text.startsWith('I'))
  expect(inserts.map((text) => ids.findIndex((id) => text.includes(id)))).toEqual([0, 1])
  expect(inserts.every(({ length }) => length > 36_000)).toBe(true)
})

test('a reader of a standby holds up the replay of an emptied bucket as long as the standby permits, and no writer', async () => {
  const settings = { max_standby_streaming_delay: '-1', max_prepared_transactions: '5' }
  const standby = await startPostgres({ standbyOf: server!, settings })
  onTestFinished(() => standby.remove())
  const [reader, other] = [await connect(standby), await connect(standby)]
  const count = `select count(*)::int as rows from outrider.outbox where bucket = ${OLD}`
  const rows = async (client = reader) => (await client.query(count)).rows[0].rows
  await until(async () => (await rows(other)) === 1)
  await reader.query('begin isolation level repeatable read')
  expect(await rows()).toBe(1)
  await env.checkpoint(80)
  expect(await env.empty(OLD)).toBeNull()
  const id = await env.insert(OLD)
  const isWaiting = "select from pg_stat_activity where backend_type = 'startup' and wait_event_type = 'Lock'"
  await until(async () => (await other.query(isWaiting)).rowCount === 1)
  expect(await rows()).toBe(1)
  await reader.query('commit')
  await until(async () => (await reader.query('select from outrider.outbox where id = $1', [id])).rowCount === 1)
  expect(await rows()).toBe(1)
})

test('inserts do not wait for a synchronous standby that is away while setup changes their bucket', async () => {
  await env.client.query('alter table only outrider.outbox alter bucket set default 1')
  await server!.set({ synchronous_standby_names: 'nobody' })
  const setup = await connect()
  let isDone = false
  const setting = setBucketDefault(setup).finally(() => {
    isDone = true
  })
  let waits = 0
  await until(async () => {
    const cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
    waits += (await env.client.query(cancel)).rowCount!
    return isDone
  })
  await server!.set({ synchronous_standby_names: null })
  expect([await setting, waits]).toEqual([undefined, 0])
})
