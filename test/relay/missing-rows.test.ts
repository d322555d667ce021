import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { amongTxids } from '../../src/postgres/outbox/txid-index.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { MissingRows } from '../../src/relay/repair/missing-rows.js'
import { createDatabase, type Database } from '../../testkit/services/index.js'

const LINEAGE = '00000000-0000-4000-8000-000000000001'
/** A repair that has ended. */
const EARLIER = '00000000-0000-4000-8000-000000000002'
const BEFORE = 20_000
const AFTER = 10

let database: Database
let client: pg.Client
/** Sees all rows but the last ones. */
let bound: string
let last: string

beforeAll(async () => {
  database = await createDatabase()
  client = await database.connect()
  await migrate(client)
  // The present snapshot would begin at the oldest transaction of the whole cluster, whatever its database.
  const next = BigInt(await insert(BEFORE)) + 1n
  bound = `${next}:${next}:`
  last = await insert(AFTER)
  // An autovacuum worker does it, where there is one.
  await client.query(
    "select brin_summarize_new_values(inhrelid::regclass) from pg_inherits where inhparent = 'outrider.outbox_txid'::regclass",
  )
  await client.query(
    `insert into outrider.lineage (lineage, slot, publication, source, outbox_table, system_id, timeline, publication_state)
     values ('${LINEAGE}', 's', 'p', 's', 'outrider.outbox', '1', 1, 'x')`,
  )
  await client.query(
    `with gap as (insert into outrider.incident (lineage, kind, reason) values ('${LINEAGE}', 'gap', 'slot_ahead') returning id)
     insert into outrider.gap_stream (incident, stream_key) select id, stream from gap, unnest(array['orders', 'users']) as stream`,
  )
})
afterAll(async () => {
  await client.end()
  await database.drop()
})

const value = async (sql: string): Promise<string> => (await client.query(sql)).rows[0].value

/** In one transaction; its id. */
async function insert(count: number): Promise<string> {
  const { rows } = await client.query(
    `with inserted as (
       insert into outrider.outbox (stream, type, data)
         select case when n % 2 = 0 then 'orders' else 'users' end, 'happened', json_build_object('n', n)
           from generate_series(1, ${count}) as n
       returning txid
     ) select min(txid::text) as value from inserted`,
  )
  return rows[0].value
}

async function missing(bounds: { orders: string | null; users: string | null }) {
  for (const [stream, snapshot] of Object.entries(bounds)) {
    await client.query('update outrider.gap_stream set snapshot = $2 where stream_key = $1', [stream, snapshot])
  }
  const snapshot = await value('select pg_current_snapshot()::text as value')
  return new MissingRows({ client, lineage: LINEAGE, session: LINEAGE, snapshot })
}

/** Rows of the outbox that statements have read. */
async function rowsRead(work: () => Promise<unknown>): Promise<number> {
  const count = async () => {
    await client.query('select pg_stat_force_next_flush()')
    return Number(
      await value(
        "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) as value from pg_stat_user_tables where relname ~ '^outbox_\\d$'",
      ),
    )
  }
  const before = await count()
  await work()
  return (await count()) - before
}

test('what is missing beyond the bounds is found without reading the table as a whole, also without its statistics', async () => {
  const rows = await missing({ orders: bound, users: bound })
  let found = 0
  expect(await rowsRead(async () => (found = (await rows.find(100)).rows))).toBeLessThan(BEFORE / 4)
  expect(found).toBe(AFTER)
})

test('a stream without a bound has all of its rows looked at', async () => {
  const rows = await missing({ orders: null, users: bound })
  expect((await rows.find(BEFORE)).rows).toBe((BEFORE + AFTER) / 2 + AFTER / 2)
})

test('more rows than the limit are counted, and not sorted nor kept', async () => {
  const rows = await missing({ orders: null, users: null })
  expect(await rows.find(5)).toMatchObject({ rows: BEFORE + AFTER, bytes: expect.any(Number) })
  expect(Number(await value("select count(*) as value from pg_cursors where name = 'missing'"))).toBe(0)
})

test('rows of some transactions are found without reading the table as a whole', async () => {
  let found: number | null = 0
  const read = await rowsRead(async () => {
    const { rowCount } = await client.query(
      `select from outrider.outbox where txid = '${last}' and ${await amongTxids(client, [last, '3'])}`,
    )
    found = rowCount
  })
  expect([found, read < BEFORE / 4]).toEqual([AFTER, true])
})

test('what is there is left out in little time, also where statistics know of another repair alone', async () => {
  const record = (session: string) =>
    client.query(
      `insert into outrider.present (lineage, session, stream, id) select $1, $2, stream, id from outrider.outbox`,
      [LINEAGE, session],
    )
  await record(EARLIER)
  await client.query('analyze outrider.present')
  await record(LINEAGE)
  const rows = await missing({ orders: null, users: null })
  const began = performance.now()
  expect(await rows.find(BEFORE)).toMatchObject({ rows: 0 })
  // 0.2 s; by a nested loop, with 200,000,000 comparisons, 22 s. No statement_timeout ends a holdable cursor: it is filled by the commit.
  expect(performance.now() - began).toBeLessThan(5_000)
  await client.query('delete from outrider.present')
})
