import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { insertLineage } from '../../src/postgres/state/lineage.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { LOCK_WAITS } from '../support/lock-waits.js'
import { type BucketsEnv, CURRENT, createBucketsEnv } from './buckets-env.js'

const OLD = 3

let env: BucketsEnv
const others: pg.Client[] = []

beforeEach(async () => {
  env = await createBucketsEnv()
})

afterEach(async () => {
  for (const other of others.splice(0)) await other.end().catch(() => {})
  await env.close()
})

async function connect(): Promise<pg.Client> {
  const other = await env.database.connect()
  others.push(other)
  return other
}

test('a bucket is emptied once every row is seen by a checkpoint from before the window', async () => {
  await env.insert(OLD)
  const kept = await env.insert(4)
  const lsn = await env.checkpoint(80)
  const late = await env.insert(4)
  expect(await env.empty(OLD)).toBeNull()
  expect(await env.ids(OLD)).toEqual([])
  expect(await env.empty(4)).toBe('unproven')
  expect(await env.ids(4)).toEqual([kept, late])
  const { rows } = await env.client.query(
    'select lsn::text, until < clock_timestamp() - $1::interval as old from outrider.emptied',
    ['79h'],
  )
  expect(rows).toEqual([{ lsn, old: true }])
  expect(await env.empty(OLD)).toBe('empty')
})

test('what was emptied is recorded by the newest checkpoint that it was decided by', async () => {
  await env.insert(OLD)
  await env.insert(4)
  await env.checkpoint(200)
  const newest = await env.checkpoint(80)
  expect(await env.empty(OLD, 72)).toBeNull()
  expect(await env.empty(4, 100)).toBeNull()
  const { rows } = await env.client.query('select lsn::text from outrider.emptied')
  expect(rows).toEqual([{ lsn: newest }])
})

describe('a row that no old checkpoint sees keeps its bucket', () => {
  test('whatever its created_at says', async () => {
    await env.checkpoint(80)
    const id = await env.insert(OLD, env.client, '2001-01-01')
    expect(await env.empty(OLD)).toBe('unproven')
    await env.checkpoint(1)
    expect(await env.empty(OLD)).toBe('unproven')
    expect(await env.ids(OLD)).toEqual([id])
  })

  test('when its transaction was open at the checkpoint, and committed days later', async () => {
    const writer = await connect()
    await writer.query('begin')
    const id = await env.insert(OLD, writer)
    const { rows } = await writer.query('select pg_current_xact_id()::text as xid')
    // Gives the next checkpoint an upper bound above the open transaction.
    await env.insert(OLD)
    const known = await env.client.query('select $1::xid8 < pg_snapshot_xmax(pg_current_snapshot()) as below', [
      rows[0].xid,
    ])
    expect(known.rows).toEqual([{ below: true }])
    await env.checkpoint(80)
    await writer.query('commit')
    expect(await env.empty(OLD)).toBe('unproven')
    expect(await env.ids(OLD)).toContain(id)
    await env.checkpoint(73)
    expect(await env.empty(OLD)).toBeNull()
  })

  test('when it was committed between the snapshot of the caller and the lock', async () => {
    await env.insert(OLD)
    await env.checkpoint(80)
    const call = 'select outrider.empty_bucket($1::smallint, clock_timestamp()) as refusal'
    for (const level of ['repeatable read', 'serializable']) {
      await env.client.query(`begin isolation level ${level}`)
      await env.client.query('select from outrider.lineage')
      const id = await env.insert(OLD, await connect())
      await expect(env.client.query(call, [OLD])).rejects.toMatchObject({ code: '25000' })
      await env.client.query('rollback')
      expect(await env.ids(OLD)).toContain(id)
    }
    await env.client.query('begin isolation level read committed')
    await env.client.query('select from outrider.lineage')
    await env.insert(OLD, await connect())
    expect((await env.client.query(call, [OLD])).rows).toEqual([{ refusal: 'unproven' }])
    await env.client.query('commit')
    expect(await env.ids(OLD)).toHaveLength(4)
  })
})

describe('nothing is emptied, and nothing waits,', () => {
  beforeEach(async () => {
    await env.insert(OLD)
    await env.checkpoint(80)
  })

  afterEach(async () => {
    expect(await env.ids(OLD)).toHaveLength(1)
  })

  const ahead = (by: number) => (CURRENT + by + 24) % 24

  test('of the bucket that inserts go to, nor of the one before and the one after', async () => {
    for (const current of [OLD - 1, OLD, OLD + 1]) {
      await env.setCurrent(current)
      expect(await env.empty(OLD)).toBe('current')
    }
    await env.setCurrent(CURRENT)
    expect(await env.empty(ahead(2))).toBe('empty')
    await env.setCurrent(0)
    await env.insert(23)
    await env.checkpoint(80)
    expect(await env.empty(23)).toBe('current')
  })

  test('while a transaction that wrote to it is open', async () => {
    const writer = await connect()
    await writer.query('begin')
    await env.insert(OLD, writer)
    expect(await env.empty(OLD)).toBe('in_use')
    await writer.query('rollback')
  })

  test('while it is read', async () => {
    const reader = await connect()
    await reader.query('begin')
    await reader.query('select count(*) from outrider.outbox')
    expect(await env.empty(OLD)).toBe('in_use')
  })

  test('while a gap is open, is being opened, or the streams are known to be of another database', async () => {
    const other = await connect()
    await other.query('begin')
    const open = (kind: string, reason: string) =>
      other.query(
        'insert into outrider.incident (lineage, kind, reason) select lineage, $1, $2 from outrider.lineage returning id',
        [kind, reason],
      )
    const { rows } = await open('gap', 'stream_behind')
    expect(await env.empty(OLD)).toBe('in_use')
    await other.query('commit')
    expect(await env.empty(OLD)).toBe('gap')
    await other.query('update outrider.incident set repaired_at = now() where id = $1', [rows[0].id])
    await open('foreign', 'diverged')
    expect(await env.empty(OLD)).toBe('gap')
  })

  test('without a checkpoint that is old enough, of each lineage of the table', async () => {
    expect(await env.empty(OLD, 90)).toBe('checkpoint')
    await insertLineage(env.client, {
      ...{ slot: 'another', publication: 'outrider', source: '/other', outboxTable: 'outrider.outbox' },
    })
    expect(await env.empty(OLD)).toBe('checkpoint')
    await env.client.query('update outrider.lineage set retired_at = now()')
    expect(await env.empty(OLD)).toBe('checkpoint')
  })

  test('by a checkpoint that the slot has not confirmed, or without a slot', async () => {
    await env.client.query(
      `update outrider.checkpoint set lsn = pg_current_wal_insert_lsn() + 1000000, snapshot = pg_current_snapshot()`,
    )
    expect(await env.empty(OLD)).toBe('slot')
    await env.client.query('select pg_drop_replication_slot($1)', [env.slot])
    expect(await env.empty(OLD)).toBe('slot')
  })

  test('by a snapshot from the future of this server, as a copy of another one has', async () => {
    await env.client.query("update outrider.checkpoint set snapshot = '1000000000:1000000000:'")
    expect(await env.empty(OLD)).toBe('checkpoint')
  })

  test('without the index, and before setup has given the column its default', async () => {
    await env.client.query('drop index outrider.outbox_txid')
    expect(await env.empty(OLD)).toBe('index')
    await env.client.query('alter table only outrider.outbox alter bucket set default 1')
    expect(await env.empty(OLD)).toBe('setup')
  })

  test('of a bucket that is no partition', async () => {
    expect(await env.empty(24)).toBe('missing')
    await env.client.query('create table outrider.outbox_24 (id integer); insert into outrider.outbox_24 values (1)')
    expect(await env.empty(24)).toBe('missing')
  })
})

test('a gap that opens while a bucket is emptied is opened afterwards, so that a repair finds what it may rely on', async () => {
  await env.insert(OLD)
  await env.checkpoint(80)
  const other = await connect()
  await env.client.query('begin isolation level read committed')
  const call = "select outrider.empty_bucket($1::smallint, clock_timestamp() - interval '72h') as refusal"
  expect((await env.client.query(call, [OLD])).rows).toEqual([{ refusal: null }])
  const opening = other.query(
    `insert into outrider.incident (lineage, kind, reason) select lineage, 'gap', 'stream_behind' from outrider.lineage
     returning (select count(*)::int from outrider.emptied) as emptied`,
  )
  await until(async () => (await env.client.query(`select from ${LOCK_WAITS}`)).rowCount === 1)
  await env.client.query('commit')
  await opening
  expect((await other.query('select from outrider.emptied')).rowCount).toBe(1)
})

test('nothing is emptied while a transaction that wrote to the bucket is prepared', async ({
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres({ settings: { max_prepared_transactions: '5' } })
  onTestFinished(() => server.remove())
  const own = await createBucketsEnv(server)
  await own.insert(OLD)
  await own.client.query('begin')
  const id = await own.insert(OLD)
  await own.client.query("prepare transaction 'orphan'")
  await own.checkpoint(80)
  expect(await own.empty(OLD)).toBe('in_use')
  await own.client.query("commit prepared 'orphan'")
  expect(await own.empty(OLD)).toBe('unproven')
  expect(await own.ids(OLD)).toContain(id)
  await own.close()
})

test('inserts to other buckets go on while one is emptied', async () => {
  await env.insert(OLD)
  await env.checkpoint(80)
  const writer = await connect()
  await writer.query("set lock_timeout = '1s'")
  await env.client.query('begin isolation level read committed')
  await env.client.query("select outrider.empty_bucket($1::smallint, clock_timestamp() - interval '72h')", [OLD])
  await env.insert(CURRENT, writer)
  await env.client.query('commit')
})

test('the relay may ask and empty, and nothing else; writers may not', async () => {
  const role = `retain_${env.database.name}`
  await env.client.query(`create role ${role} login password 'secret' in role outrider_relay`)
  const relay = await env.database.connect({ user: role, password: 'secret' })
  others.push(relay)
  await env.insert(OLD)
  await env.checkpoint(80)
  await expect(relay.query(`truncate outrider.outbox_${OLD}`)).rejects.toMatchObject({ code: '42501' })
  await expect(relay.query(`select outrider.bucket_refusal(1::smallint, now())`)).rejects.toMatchObject({
    code: '42501',
  })
  const ask = (name: string) =>
    relay.query(`select outrider.${name}_bucket($1::smallint, clock_timestamp() - interval '72h') as refusal`, [OLD])
  expect((await ask('examine')).rows).toEqual([{ refusal: null }])
  await relay.query('begin isolation level read committed')
  expect((await ask('empty')).rows).toEqual([{ refusal: null }])
  await relay.query('commit')
  await relay.end()
  await env.client.query(`revoke outrider_relay from ${role}; grant outrider_writer to ${role}`)
  const writer = await env.database.connect({ user: role, password: 'secret' })
  await expect(writer.query('select outrider.empty_bucket(1::smallint, now())')).rejects.toMatchObject({
    code: '42501',
  })
  await writer.query("insert into outrider.outbox (stream, type) values ('orders', 'placed')")
  await writer.end()
  expect(await env.ids(CURRENT)).toHaveLength(1)
  await env.client.query(`drop role ${role}`)
})

test('under the lock no page of the table is read, once the index has a summary of all of them', async () => {
  await env.client.query(`alter index outrider.outbox_${OLD}_txid set (autosummarize = off)`)
  await env.client.query(
    `insert into outrider.outbox (stream, type, data, bucket)
     select 'orders', 'placed', to_json(repeat('x', 500)), $1 from generate_series(1, 40000)`,
    [OLD],
  )
  await env.checkpoint(80)
  const pages = (await env.client.query(`select pg_relation_size('outrider.outbox_${OLD}') / 8192 as pages`)).rows[0]
    .pages
  const read = async () => {
    const { rows } = await env.client.query(
      `explain (analyze, buffers, format json) select outrider.bucket_refusal(${OLD}::smallint, clock_timestamp() - interval '72h')`,
    )
    const plan = rows[0]['QUERY PLAN'][0].Plan
    return plan['Shared Hit Blocks'] + plan['Shared Read Blocks']
  }
  expect(await read()).toBeGreaterThan(Number(pages))
  await env.client.query(`select outrider.examine_bucket(${OLD}::smallint, clock_timestamp())`)
  await read()
  expect(await read()).toBeLessThan(Number(pages) / 4)
})
