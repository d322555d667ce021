import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { adopt } from '../../src/cli/adopt.js'
import { describeSought, seekEvents } from '../../src/cli/left-out.js'
import { setup } from '../../src/cli/setup.js'
import { openIncident } from '../../src/postgres/state/incidents.js'
import { currentLineage, type Lineage } from '../../src/postgres/state/lineage.js'
import { type Database, freshRedis, until } from '../../testkit/services/index.js'
import { type CommandRun, configFor, runCommand } from '../support/command.js'
import { createMigratedDatabase } from '../support/migrated-database.js'

let database: Database
let client: pg.Client
let slot: string
let old: Lineage

beforeEach(async () => {
  database = await createMigratedDatabase('outbox')
  client = await database.connect()
  slot = `outrider_${database.name}`
  await runCommand(setup, database.url)
  old = (await currentLineage(client, slot))!
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const run = (options?: CommandRun) => runCommand(adopt, database.url, options)
const publish = (count: number) =>
  client.query("select outrider.publish('orders', 'x') from generate_series(1, $1::int)", [count])
const checkpoint = () =>
  client.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot) select $1, pg_current_wal_insert_lsn(), pg_current_snapshot()`,
    [old.lineage],
  )
const retired = async () =>
  (
    await client.query('select retired_at is not null as retired from outrider.lineage where lineage = $1', [
      old.lineage,
    ])
  ).rows[0].retired

test('starts a new lineage with a slot of its own, and retires the old one', async () => {
  await client.query('select pg_drop_replication_slot($1)', [slot])
  await client.query('update outrider.lineage set trims = false')
  await client.query("insert into outrider.consumer_group values ($1, 'orders', 'billing', '5-0', '4-0', '4-0')", [
    old.lineage,
  ])
  const { code, text } = await run({ answer: true })
  expect(code).toBe(0)
  const lineage = (await currentLineage(client, slot))!
  // Streams are trimmed as before, and not past what a group of before may not have finished.
  const { rows } = await client.query(
    `select trims, stream_key, consumer_group, floor, dead_entry
     from outrider.consumer_group join outrider.lineage using (lineage) where lineage = $1`,
    [lineage.lineage],
  )
  expect(rows).toEqual([
    { trims: false, stream_key: 'orders', consumer_group: 'billing', floor: '0-0', dead_entry: '0-0' },
  ])
  expect(lineage).toMatchObject({
    slot,
    source: old.source,
    publication: old.publication,
    outboxTable: old.outboxTable,
  })
  expect(lineage.lineage).not.toBe(old.lineage)
  expect(await retired()).toBe(true)
  expect(text).toContain('slot       missing')
  expect(text).toContain(`Lineage ${lineage.lineage} begins at ${lineage.confirmedLsn}`)
  expect((await runCommand(setup, database.url)).code).toBe(0)
})

test('shows first, and changes nothing when the answer is no', async () => {
  const { code, text } = await run({ answer: false })
  expect(code).toBe(1)
  expect(text).toContain(`Lineage ${old.lineage}, slot ${slot}`)
  expect(text).toContain('Nothing was changed.')
  expect(await currentLineage(client, slot)).toEqual(old)
})

test('says which events the new lineage leaves out: those that no checkpoint covers', async () => {
  await publish(3)
  const late = await database.connect()
  await late.query('begin')
  await late.query("select outrider.publish('orders', 'begun before the checkpoint, committed after it')")
  await checkpoint()
  await late.query('commit')
  await late.end()
  await publish(2)
  const { text } = await run({ answer: false })
  expect(text).toMatch(
    /NOT published by the new lineage: 3 rows in outrider\.outbox, created \d{4}-.*not known to have been published/,
  )
})

test('lists by id which of them are in their stream and which are not, or that Redis could not be asked', async () => {
  const { rows } = await client.query("select outrider.publish('orders', 'x') as id from generate_series(1, 2)")
  const [published, missing] = rows.map(({ id }) => id as string)
  const server = await freshRedis()
  const redis = server.client()
  await redis.xadd('orders', '*', 'id', published!, 'type', 'x')
  redis.disconnect()
  onTestFinished(() => server.remove())
  const reachable = { redis: { url: server.url, connectTimeout: 5_000 } }

  const { text } = await run({ answer: false, config: reachable })
  expect(text).toContain('In Redis: 1 of 2 were found in their stream (1 entries looked at), 1 were not.')
  expect(text).toContain(`  not found  ${missing}  stream orders, created 2`)
  expect(text).not.toContain(published)

  const away = (await run({ answer: false })).text
  expect(away).toMatch(/Redis was not looked at: Redis at 127\.0\.0\.1:1 refused the connection/)
  for (const id of [published, missing]) expect(away).toContain(`  unknown    ${id}`)

  const data = await run({ answer: true, json: true, config: reachable })
  expect(JSON.parse(data.text).leftOut).toMatchObject({
    rows: 2,
    events: [
      { id: published, stream: 'orders', published: true },
      { id: missing, stream: 'orders', published: false },
    ],
    searched: [{ key: 'orders', entries: 1, complete: true }],
  })
})

test('a search of many streams ends in time, and says what was searched and what was not', async () => {
  const leftOut = { rows: 2, provenUntil: null, oldest: null, newest: null }
  const events = ['orders', 'users'].map((stream, i) => ({ id: `e${i}`, stream, createdAt: new Date() }))
  const server = await freshRedis()
  onTestFinished(() => server.remove())
  const redis = { url: server.url, connectTimeout: 5_000 }
  const context = { config: { ...configFor(database.url), redis } }
  const sought = await seekEvents(context, { ...leftOut, events }, AbortSignal.abort())
  expect(sought.events.map(({ published }) => published)).toEqual([null, null])
  expect(describeSought(sought, 2)).toContain(
    'Searched in part, within 20 s and 100000 entries a stream: orders (0 entries), users (0 entries).',
  )
})

test('says when none is left out', async () => {
  expect((await run({ answer: false })).text).toContain('outrider.outbox is empty: no event is left out.')
  await publish(3)
  await checkpoint()
  expect((await run({ answer: false })).text).toMatch(
    /Every row in outrider\.outbox was published by .*: none is left out\./,
  )
})

test('trusts no checkpoint from another server, and shows what differs', async () => {
  await publish(3)
  await checkpoint()
  await client.query("update outrider.lineage set system_id = '4711', timeline = 9")
  const { text } = await run({ answer: true })
  expect(text).toMatch(/system id {2}stored 4711, found \d+ {3}<- not the same/)
  expect(text).toMatch(/timeline {3}stored 9, found 1 {3}<- not the same/)
  expect(text).toContain('NOT published by the new lineage: all 3 rows in outrider.outbox')
  expect(await currentLineage(client, slot)).toMatchObject({ systemId: old.systemId, timeline: 1 })
})

test('trusts no checkpoint from the future of a restored server', async () => {
  await publish(1)
  await client.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot)
     select $1, 'FFFF/0', (x || ':' || x || ':')::pg_snapshot
     from (select (pg_current_xact_id()::text::bigint + 1000000)::text as x) as future`,
    [old.lineage],
  )
  expect((await run({ answer: false })).text).toContain('NOT published by the new lineage: all 1 rows')
})

test('closes the gaps and foreign incidents of the old lineage, and leaves the others', async () => {
  const { lineage } = old
  await openIncident(client, { lineage, kind: 'gap', reason: 'slot_missing' })
  await openIncident(client, { lineage, kind: 'foreign', reason: 'system_id' })
  await openIncident(client, { lineage, kind: 'rejected', reason: 'too_large', position: 'p' })
  const { text } = await run({ answer: true })
  expect(text).toContain('incidents  2 open, will be closed as adopted')
  expect(text).toContain('Closed incidents: 1, 2.')
  const { rows } = await client.query('select kind, resolution from outrider.incident order by id')
  expect(rows).toEqual([
    { kind: 'gap', resolution: 'adopted' },
    { kind: 'foreign', resolution: 'adopted' },
    { kind: 'rejected', resolution: null },
  ])
})

test('a relay that still runs keeps its slot', async () => {
  const walsender = await startReading()
  await expect(run({ answer: true })).rejects.toThrow(/is in use by process \d+ of the server\. Stop the relay first\./)
  expect(await retired()).toBe(false)
  await walsender.end()
})

test("another database's slot is left alone", async () => {
  await client.query('select pg_drop_replication_slot($1)', [slot])
  await database.server.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
  try {
    await expect(run({ answer: true })).rejects.toThrow(`Slot ${slot} belongs to database postgres, not to this one`)
    expect(await retired()).toBe(false)
  } finally {
    await database.server.query('select pg_drop_replication_slot($1)', [slot])
  }
})

describe('interrupted', () => {
  test('before the new slot: setup continues', async () => {
    const writer = await database.connect()
    await writer.query('begin; select pg_current_xact_id()')
    await expect(run({ answer: true, flags: { 'lock-timeout': '200ms' } })).rejects.toThrow('within 200 ms')
    await writer.end()
    expect((await runCommand(setup, database.url)).code).toBe(0)
    expect((await currentLineage(client, slot))?.lineage).not.toBe(old.lineage)
  })

  test('after the old slot was dropped: setup refuses, adopt continues', async () => {
    await client.query('select pg_drop_replication_slot($1)', [slot])
    await expect(runCommand(setup, database.url)).rejects.toThrow('outrider adopt')
    expect((await run({ answer: true })).code).toBe(0)
  })
})

test('without a lineage there is nothing to adopt', async () => {
  await expect(run({ config: { slot: 'another' } })).rejects.toThrow(
    'Expected a lineage for slot another in this database',
  )
})

test('prints JSON when asked', async () => {
  await publish(1)
  const { text } = await run({ answer: true, json: true })
  expect(JSON.parse(text)).toMatchObject({
    previous: old.lineage,
    lineage: { slot },
    closedIncidents: [],
    leftOut: { rows: 1, provenUntil: null },
  })
})

describe("of a team's own table", () => {
  const outbox = { table: 'public.events', stream: 'shop.{kind}', columns: { id: 'id', type: 'type', subject: 'who' } }
  let config: { slot: string; publication: string; outbox: typeof outbox }
  const insert = async (on: pg.Client, who: string) =>
    (await on.query("insert into events (kind, who) values ('orders', $1) returning id::text", [who])).rows[0].id

  beforeEach(async () => {
    await client.query(
      'create table events (id uuid primary key default gen_random_uuid(), kind text, type text, who text)',
    )
    config = { slot: `${slot}_mapped`, publication: 'mapped', outbox }
    await runCommand(setup, database.url, { config: { ...config, streams: { 'shop.orders': { partitions: 2 } } } })
    old = (await currentLineage(client, config.slot))!
  })

  test('lists the rows by id that no checkpoint proves by their last write, and looks for them in their streams', async () => {
    const [proven, updated] = [await insert(client, 'a'), await insert(client, 'b')]
    // Transactions of other databases may be older: none of these rows is proven before they end.
    const oldest = 'select pg_snapshot_xmin(pg_current_snapshot()) > max(xmin::text)::xid8 as passed from events'
    await until(async () => (await client.query(oldest)).rows[0].passed, { message: 'the end of older transactions' })
    const late = await database.connect()
    await late.query('begin; select pg_current_xact_id(); savepoint s')
    const nested = await insert(late, 'c')
    await late.query('release savepoint s')
    // Above the transaction that is open, and below what the snapshot has not seen.
    await client.query('select pg_current_xact_id()')
    await checkpoint()
    await late.query('commit')
    await late.end()
    const after = await insert(client, 'd')
    await client.query('update events set type = $2 where id = $1', [updated, 'seen'])

    const server = await freshRedis()
    onTestFinished(() => server.remove())
    const redis = server.client()
    await redis.xadd('shop.orders:1', '*', 'id', updated, 'type', 'x')
    await redis.xadd('shop.orders:0', '*', 'id', updated, 'type', 'x')
    redis.disconnect()
    const reachable = { ...config, redis: { url: server.url, connectTimeout: 5_000 } }
    const { text } = await run({ config: reachable, answer: false })
    expect(text).toContain(
      'NOT published by the new lineage: 3 rows in public.events. They are not known to have been published: ' +
        'their last write, an UPDATE included, is not proven to be older than the last checkpoint, 2',
    )
    expect(text).toContain('In Redis: 1 of 3 were found in their 2 streams')
    for (const id of [nested, after])
      expect(text).toMatch(new RegExp(`not found  ${id}  stream shop\\.orders:[01]$`, 'm'))
    expect(text).not.toContain(proven)

    const data = JSON.parse((await run({ config: reachable, json: true, answer: true })).text)
    expect(data.leftOut).toMatchObject({ rows: 3, provenUntil: expect.any(String) })
    expect(data.leftOut.events).toEqual(
      [
        [nested, false],
        [after, false],
        [updated, true],
      ].map(([id, published]) => ({
        id,
        stream: expect.stringMatching(/^shop\.orders:[01]$/),
        createdAt: null,
        published,
      })),
    )
  })

  test('lists all of them without a checkpoint, also one that names no stream', async () => {
    const { rows } = await client.query('insert into events default values returning id::text')
    const { text } = await run({ config, answer: false })
    expect(text).toContain('all 1 rows in public.events. Nothing here proves which')
    expect(text).toContain(`unknown    ${rows[0].id}  stream of no name`)
  })

  test('says why it lists none: the configuration maps another table, or names a column that is gone', async () => {
    await insert(client, 'a')
    const ours = { slot: config.slot, publication: 'mapped' }
    expect((await run({ config: ours, answer: false })).text).toContain(
      'Their ids are not listed: outbox.table is outrider.outbox in this configuration, which does not say where ids and streams are in public.events.',
    )
    await client.query('alter table events drop column who')
    const { text } = await run({ config, answer: true, json: true })
    expect(JSON.parse(text).leftOut).toMatchObject({
      rows: 1,
      events: [],
      unlisted: 'public.events has no column who (outbox.columns.subject)',
    })
  })
})

test('creates a missing publication for the table alone, without those that inherit from it', async () => {
  await client.query('create table events (id uuid primary key default gen_random_uuid(), type text)')
  const outbox = { table: 'public.events', stream: 'events', columns: { id: 'id', type: 'type' } }
  const config = { slot: `${slot}_mapped`, publication: 'mapped', outbox }
  await runCommand(setup, database.url, { config })
  await client.query('create table child () inherits (events); drop publication mapped')
  expect((await run({ config, answer: true })).code).toBe(0)
  const { rows } = await client.query("select tablename from pg_publication_tables where pubname = 'mapped'")
  expect(rows).toEqual([{ tablename: 'events' }])
})

/** A walsender that streams from the slot, as a relay's does. */
async function startReading(): Promise<{ end(): Promise<void> }> {
  const { default: pg } = await import('pg')
  const reader = new pg.Client({ connectionString: database.url, replication: 'database' } as pg.ClientConfig)
  await reader.connect()
  const streaming = reader
    .query(`START_REPLICATION SLOT "${slot}" LOGICAL 0/0 (proto_version '1', publication_names 'outrider')`)
    .catch(() => undefined)
  reader.on('error', () => undefined)
  await until(async () => {
    const { rows } = await client.query('select active from pg_replication_slots where slot_name = $1', [slot])
    return rows[0]?.active
  })
  return {
    async end() {
      await client.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
        slot,
      ])
      await streaming
      await reader.end().catch(() => undefined)
    },
  }
}
