import type pg from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { adopt } from '../../src/cli/adopt.js'
import { setup } from '../../src/cli/setup.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { renewTxids } from '../../src/postgres/setup/restored-rows.js'
import { type Database, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'

let source: Postgres
let target: Postgres

beforeAll(async () => {
  const [one, other] = await Promise.all([
    startPostgres({ syncs: false }),
    startPostgres({ syncs: false, ownIdentifier: true }),
  ])
  source = one
  target = other
})

afterAll(() => Promise.all([source.remove(), target.remove()]))

interface Migrated {
  database: Database
  client: pg.Client
}

async function migrated(server: Postgres): Promise<Migrated> {
  const database = await server.createDatabase()
  const client = await database.connect()
  onTestFinished(() => client.end())
  await migrate(client)
  return { database, client }
}

const nextXid = async (client: pg.Client): Promise<number> =>
  Number((await client.query('select pg_snapshot_xmax(pg_current_snapshot())::text as next')).rows[0].next)

/** Uses up transaction ids until the next one is this. */
async function advanceTo(client: pg.Client, next: number): Promise<void> {
  await client.query('create table if not exists used ()')
  await client.query(
    `do $$ begin for i in 1 .. ${Math.max(0, next - (await nextXid(client)))} loop
       begin insert into used default values; exception when division_by_zero then null; end;
     end loop; end $$`,
  )
}

const publish = async (client: pg.Client, count = 1): Promise<string[]> => {
  const { rows } = await client.query(
    `select outrider.publish('orders', 'test.happened', json_build_object('pad', repeat('-', 1500))) as id from generate_series(1, $1)`,
    [count],
  )
  return rows.map(({ id }) => id)
}

const COPIED = ['lineage', 'checkpoint', 'outbox']

/** As pg_dump and pg_restore do: rows with all of their columns. */
async function restore(from: pg.Client, to: pg.Client, tables = COPIED): Promise<void> {
  for (const table of tables) {
    const { rows } = await from.query(`select coalesce(json_agg(t), '[]')::text as rows from outrider.${table} as t`)
    await to.query(`insert into outrider.${table} select * from json_populate_recordset(null::outrider.${table}, $1)`, [
      rows[0].rows,
    ])
  }
}

/** Of the rows in the table. */
const txids = async (client: pg.Client): Promise<Map<string, number>> => {
  const { rows } = await client.query('select id::text, txid::text from outrider.outbox order by seq')
  return new Map(rows.map(({ id, txid }) => [id, Number(txid)]))
}

/** Rows that a repair without bounds puts back once their transaction ids have passed. */
const notBeforeLineage = `select o.id::text from outrider.outbox as o, outrider.lineage
  where retired_at is null and not pg_visible_in_snapshot(txid, first_snapshot)`

test('adopt gives rows of another cluster transaction ids of this one, and continues where it was interrupted: no repair will ever take them for its own', async () => {
  const from = await migrated(source)
  const to = await migrated(target)
  await runCommand(setup, from.database.url)
  const slot = `outrider_${from.database.name}`
  await advanceTo(to.client, (await nextXid(from.client)) + 100)
  const low = await publish(from.client)
  await advanceTo(from.client, (await nextXid(to.client)) + 2_000)
  const high = await publish(from.client, 20)
  await restore(from.client, to.client)
  const [plain] = await publish(to.client)
  await to.client.query('begin; savepoint one')
  const [nested] = await publish(to.client)
  await to.client.query('commit')
  const before = await txids(to.client)

  const killed = await to.database.connect()
  const locker = await to.database.connect()
  await locker.query('begin')
  await locker.query('select from outrider.outbox where id = $1 for update', [high.at(-1)])
  const { rows } = await killed.query('select pg_backend_pid() as pid')
  const renewing = renewTxids(killed, { outboxTable: 'outrider.outbox' }, 1).catch((error: Error) => error)
  await until(
    async () => (await locker.query('select from pg_locks where not granted and pid = $1', [rows[0].pid])).rowCount,
  )
  await locker.query('select pg_terminate_backend($1)', [rows[0].pid])
  expect(await renewing).toBeInstanceOf(Error)
  await locker.query('rollback')
  await locker.end()
  const half = await txids(to.client)
  expect(half.get(low[0]!)).not.toBe(before.get(low[0]!))
  expect(half.get(high[0]!)).not.toBe(before.get(high[0]!))
  expect(half.get(high.at(-1)!)).toBe(before.get(high.at(-1)!))

  const config = { slot }
  const { code, text } = await runCommand(adopt, to.database.url, { answer: true, config })
  expect(code).toBe(0)
  expect(text).toMatch(/Renewed: transaction ids of \d+ rows: some were of another cluster\./)
  const after = await txids(to.client)
  expect(after.get(plain!)).toBe(before.get(plain!))
  const next = await nextXid(to.client)
  for (const id of [...low, ...high, nested!]) {
    expect(after.get(id)).toBeGreaterThan(before.get(plain!)!)
    expect(after.get(id)).toBeLessThan(next)
  }
  expect((await to.client.query(notBeforeLineage)).rows).toEqual([])
  const own = await publish(to.client)
  await advanceTo(to.client, Math.max(...before.values()) + 10)
  expect((await to.client.query(notBeforeLineage)).rows.map(({ id }) => id)).toEqual(own)

  const again = await runCommand(setup, to.database.url, { config })
  expect(again.text).not.toContain('renewed')
  expect((await to.client.query('select from outrider.outbox where txid::text::bigint < $1', [next])).rowCount).toBe(
    after.size,
  )
})

test('setup does so for rows that were copied into a table that is published already, but not while a gap is open', async () => {
  const from = await migrated(source)
  const to = await migrated(target)
  await runCommand(setup, to.database.url)
  const [own] = await publish(to.client)
  await advanceTo(from.client, (await nextXid(to.client)) + 2_000)
  const copied = await publish(from.client, 3)
  await restore(from.client, to.client, ['outbox'])
  const before = await txids(to.client)
  await to.client.query(
    "insert into outrider.incident (lineage, kind, reason) select lineage, 'gap', 'slot_ahead' from outrider.lineage",
  )
  const blocked = await runCommand(setup, to.database.url)
  expect(blocked.code).not.toBe(0)
  expect(blocked.text).toContain('! Some rows of outrider.outbox have transaction ids of another cluster')
  expect(await txids(to.client)).toEqual(before)

  await to.client.query('update outrider.incident set repaired_at = now()')
  const { code, text } = await runCommand(setup, to.database.url)
  expect(code).toBe(0)
  expect(text).toContain('renewed  transaction ids of 3 rows: some were of another cluster')
  const after = await txids(to.client)
  const next = await nextXid(to.client)
  for (const id of copied) expect(after.get(id)).toBeLessThan(next)
  expect(after.get(own!)).toBe(before.get(own!))
  expect((await runCommand(setup, to.database.url)).text).not.toContain('renewed')
})
