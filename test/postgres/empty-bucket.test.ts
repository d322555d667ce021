import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { emptyBucket, readBuckets } from '../../src/postgres/outbox/buckets.js'
import { insertLineage } from '../../src/postgres/state/lineage.js'
import { until } from '../../testkit/services/index.js'
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

/** What the database answers without emptying. */
async function refusal(bucket: number, hours = 72): Promise<string | null> {
  const { rows } = await env.client.query(
    'select outrider.bucket_refusal($1::smallint, clock_timestamp() - make_interval(hours => $2)) as refusal',
    [bucket, hours],
  )
  return rows[0].refusal
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
    expect(await refusal(OLD)).toBeNull()
    await open('foreign', 'diverged')
    expect(await env.empty(OLD)).toBe('gap')
  })

  test('while the incident of a rejected row of it is open, if the row is too large to be kept there', async () => {
    const reject = (id: string, detail: object) =>
      env.client.query(
        `insert into outrider.incident (lineage, kind, reason, position, event_id, detail)
         select lineage, 'rejected', 'too_large', $1, $1, $2 from outrider.lineage`,
        [id, JSON.stringify(detail)],
      )
    const [id] = (await env.ids(OLD)) as [string]
    await reject('of another table', { omitted: { data: 9_000_000 } })
    await reject('-'.repeat(36), { omitted: { data: 9_000_000 } })
    await reject(await env.insert(CURRENT), { omitted: { data: 9_000_000 } })
    await reject(id, {})
    expect(await refusal(OLD)).toBeNull()
    await env.client.query('update outrider.incident set detail = $2 where event_id = $1', [id, '{"omitted": {}}'])
    expect(await env.empty(OLD)).toBe('rejected')
    await env.client.query('update outrider.incident set closed_at = now() where event_id = $1', [id])
    expect(await refusal(OLD)).toBeNull()
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

test('a lineage of another table holds up nothing', async () => {
  await env.insert(OLD)
  await env.checkpoint(80)
  const other = { slot: 'another', publication: 'outrider', source: '/other', outboxTable: 'public.outbox' }
  const { lineage } = await insertLineage(env.client, other)
  await env.client.query("update outrider.lineage set outbox_oids = '{}' where lineage = $1", [lineage])
  await env.client.query("insert into outrider.incident (lineage, kind, reason) values ($1, 'gap', 'slot_missing')", [
    lineage,
  ])
  expect(await env.empty(OLD)).toBeNull()
})

test('each lineage of the table must have published a row, by a checkpoint of its own', async () => {
  const slot = `${env.slot}_2`
  await env.client.query('select pg_copy_logical_replication_slot($1, $2)', [env.slot, slot])
  const other = { slot, publication: 'outrider', source: '/other', outboxTable: 'outrider.outbox' }
  const { lineage } = await insertLineage(env.client, other)
  const takes = (hours: number) =>
    env.client.query(
      `insert into outrider.checkpoint (lineage, lsn, snapshot, taken_at)
       select $1, confirmed_flush_lsn, pg_current_snapshot(), clock_timestamp() - make_interval(hours => $3)
       from pg_replication_slots where slot_name = $2`,
      [lineage, slot, hours],
    )
  await takes(90)
  const id = await env.insert(OLD)
  await env.checkpoint(80)
  expect(await env.empty(OLD)).toBe('unproven')
  expect(await env.ids(OLD)).toEqual([id])
  await env.client.query('select pg_replication_slot_advance($1, pg_current_wal_flush_lsn())', [slot])
  await takes(80)
  expect(await env.empty(OLD)).toBeNull()
  expect((await env.client.query('select from outrider.emptied')).rowCount).toBe(2)
  await env.client.query('select pg_drop_replication_slot($1)', [slot])
})

test('a row with the transaction id of another server keeps its bucket until this server is past it', async () => {
  await env.client.query(
    "insert into outrider.outbox (stream, type, bucket, txid) values ('a', 'b', $1, '1000000000')",
    [OLD],
  )
  await env.checkpoint(80)
  expect(await env.empty(OLD)).toBe('unproven')
  await env.client.query("update outrider.outbox set txid = '3'")
  expect(await env.empty(OLD)).toBeNull()
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

test('a process that stops between two statements holds no lock of the bucket', async () => {
  const client = await connect()
  const { rows } = await client.query('select pg_backend_pid() as pid')
  const statements: string[] = []
  const held: unknown[] = []
  const watched: pg.ClientBase = Object.create(client, {
    query: {
      value: async (sql: string, values?: unknown[]) => {
        const result = await client.query(sql, values)
        statements.push(sql)
        const locks = `select mode from pg_locks where pid = $1 and relation in ('outrider.outbox_${OLD}'::regclass, 'outrider.incident'::regclass)`
        held.push(...(await env.client.query(locks, [rows[0].pid])).rows)
        return result
      },
    },
  })
  await env.insert(OLD)
  await env.checkpoint(80)
  expect(await emptyBucket(watched, OLD, 72 * 3_600_000)).toBe('emptied')
  expect(statements.join()).toContain('outrider.empty_bucket')
  expect(held).toEqual([])
})

test('the bucket is locked for a second at most, and no lock is waited for, also not of its TOAST table', async () => {
  await env.insert(OLD)
  await env.checkpoint(80)
  const reader = await connect()
  const { rows } = await reader.query(
    `select reltoastrelid::regclass::text as toast from pg_class where oid = 'outrider.outbox_${OLD}'::regclass`,
  )
  await reader.query(`begin; select from ${rows[0].toast}`)
  await env.client.query("set statement_timeout = '1s'")
  expect(await env.empty(OLD)).toBe('in_use')
  await reader.query('rollback')
  await env.client.query(`
    create or replace function outrider.empty_bucket(bucket smallint, taken_before timestamptz) returns text language plpgsql as $$
    begin
      perform pg_cancel_backend(pg_backend_pid()) where current_setting('statement_timeout') = '1s';
      return 'no limit';
    end $$`)
  expect(await emptyBucket(await connect(), OLD, 72 * 3_600_000)).toBe('slow')
})

test('what decides is asked while the bucket and the incidents are locked', async () => {
  await env.client.query(`
    create or replace function outrider.bucket_refusal(bucket smallint, taken_before timestamptz) returns text language sql as $$
      select string_agg(relation::regclass || ' ' || mode, ', ' order by mode) from pg_locks
      where pid = pg_backend_pid() and (relation, mode) in (
        ('outrider.outbox_${OLD}'::regclass, 'AccessExclusiveLock'), ('outrider.incident'::regclass, 'ShareLock')) $$`)
  expect(await env.empty(OLD)).toBe(`outrider.outbox_${OLD} AccessExclusiveLock, outrider.incident ShareLock`)
})

test('the time of the server is read together with that of the process, however long the sizes are waited for', async () => {
  const other = await connect()
  await other.query('begin; lock table outrider.outbox_5')
  const reading = readBuckets(env.client)
  await until(async () => (await other.query(`select from ${LOCK_WAITS}`)).rowCount === 1)
  const then = performance.now()
  await other.query('commit')
  expect((await reading).readAt).toBeLessThan(then)
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
  const hits = async (call: string) => {
    const { rows } = await env.client.query(`explain (analyze, buffers, format json) select outrider.${call}`)
    const plan = rows[0]['QUERY PLAN'][0].Plan
    return plan['Shared Hit Blocks'] + plan['Shared Read Blocks']
  }
  const read = () => hits(`bucket_refusal(${OLD}::smallint, clock_timestamp() - interval '72h')`)
  expect(await read()).toBeGreaterThan(Number(pages))
  await env.client.query(`select outrider.examine_bucket(${OLD}::smallint, clock_timestamp())`)
  await read()
  expect(await read()).toBeLessThan(Number(pages) / 4)
  // As few for a checkpoint that saw many transactions running, if all of them are younger than the rows.
  const newest = (await env.client.query('select max((txid::text)::bigint)::int as txid from outrider.outbox')).rows[0]
    .txid
  const running = Array.from({ length: 1_000 }, (_, n) => newest + 1 + n)
  expect(
    await hits(`has_unproven('outrider.outbox_${OLD}', '${running[0]}:${newest + 1_001}:${running}')`),
  ).toBeLessThan(100)
})

test('a row is proven to be published exactly if the snapshot sees its transaction', async () => {
  await env.client.query(
    `insert into outrider.outbox (stream, type, bucket, txid)
     select 'orders', 'placed', $1, xid::text::xid8 from unnest('{110, 120, 130}'::int[]) as xid`,
    [OLD],
  )
  const { rows } = await env.client.query(
    `select count(*)::int as snapshots, count(*) filter (where outrider.has_unproven('outrider.outbox_${OLD}', snapshot))::int as unproven,
       count(*) filter (where outrider.has_unproven('outrider.outbox_${OLD}', snapshot) <> exists (
         select from outrider.outbox where not pg_visible_in_snapshot(txid, snapshot)))::int as wrong
     from (
       select format('%s:%s:%s', coalesce(min(xid), ceiling), ceiling, string_agg(xid::text, ',' order by xid))::pg_snapshot as snapshot
       from unnest('{118, 130, 131, 140}'::int[]) as ceiling cross join generate_series(0, 127) as subset
         left join lateral unnest('{1, 109, 110, 115, 120, 130, 131}'::int[]) with ordinality as running (xid, place)
           on subset & (1 << (place::int - 1)) <> 0 and xid < ceiling
       group by ceiling, subset
     ) as every`,
  )
  expect(rows).toEqual([{ snapshots: 512, unproven: expect.any(Number), wrong: 0 }])
  expect(rows[0].unproven).toBeGreaterThan(256)
  expect(rows[0].unproven).toBeLessThan(512)
})

test('functions with the rights of the owner look names up among those of the server first', async () => {
  const { rows } = await env.client.query(
    `select proname as name, coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false) as pinned
     from pg_proc where pronamespace = 'outrider'::regnamespace
       and (prosecdef or proname in ('bucket_refusal', 'has_unproven')) order by 1`,
  )
  const names = ['bucket_refusal', 'empty_bucket', 'examine_bucket', 'has_unproven']
  expect(rows).toEqual(names.map((name) => ({ name, pinned: true })))
})
