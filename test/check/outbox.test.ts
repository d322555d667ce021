import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import type { Finding } from '../../src/check/finding.js'
import { setup } from '../../src/cli/setup.js'
import type { OutboxMapping } from '../../src/config/schema.js'
import { limitData } from '../../src/postgres/outbox/data-limit.js'
import {
  type Database,
  needsProcess,
  type Postgres,
  type Redis,
  startPostgres,
  startRedis,
} from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { paste, runCheck } from './run.js'

let postgres: Postgres
let redis: Redis
let database: Database
let client: pg.Client

beforeEach((context) => needsProcess(context))

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL || process.env.OUTRIDER_TEST_REDIS_URL) return
  postgres = await startPostgres({ syncs: false, settings: { max_slot_wal_keep_size: '1GB' } })
  redis = await startRedis({ settings: { maxmemory: '256mb', appendonly: 'yes' } })
})

afterAll(async () => {
  await postgres?.remove()
  await redis?.remove()
})

beforeEach(async () => {
  database = await postgres.createDatabase()
  client = await database.connect()
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const mapping = (columns: Partial<OutboxMapping['columns']> = {}, table = 'public.events'): OutboxMapping => ({
  table,
  stream: '{kind}',
  columns: { id: 'id', type: 'type', ...columns },
})
const look = (outbox?: OutboxMapping, flags = {}) => runCheck(database.url, redis.url, outbox ? { outbox } : {}, flags)
const found = async (id: string, outbox?: OutboxMapping): Promise<Finding> => {
  const { open, findings } = await look(outbox)
  expect(open).toEqual([id])
  return findings.find((finding) => finding.id === id)!
}
const setUp = (outbox?: OutboxMapping, more = {}) =>
  runCommand(setup, database.url, { config: outbox ? { outbox, ...more } : more })

const BASE = 'id uuid primary key, kind text, type text'

describe('a mapped column that cannot be published is refused by setup and check, before setup, too:', () => {
  test.each([
    [
      'a bytea payload',
      'payload bytea',
      { data: 'payload' },
      'outbox.columns.data: expected json, jsonb, or text that holds JSON, found column payload, type bytea',
    ],
    ['an array as payload', 'payload int[]', { data: 'payload' }, 'found column payload, type integer[]'],
    [
      'a bigint time',
      'at bigint',
      { time: 'at' },
      'outbox.columns.time: expected timestamptz, timestamp, or text as Postgres writes one, found column at, type bigint',
    ],
    ['a date as time', 'at date', { time: 'at' }, 'found column at, type date'],
    [
      'a stored generated column',
      "subject text generated always as ('s') stored",
      { subject: 'subject' },
      'outbox.columns.subject: expected a column that is not generated, found column subject, a generated column of type text',
    ],
    ['a document as subject', 'subject jsonb', { subject: 'subject' }, 'found column subject, type jsonb'],
    [
      'a schema version that is a time',
      'v timestamptz',
      { schemaVersion: 'v' },
      'outbox.columns.schemaVersion: expected an integer',
    ],
    [
      'a column that is missing',
      'other text',
      { subject: 'nothing' },
      'outbox.columns.subject: expected a column of public.events, found none that is named nothing',
    ],
  ])('%s', async (_what, column, columns, message) => {
    await client.query(`create table public.events (${BASE}, ${column})`)
    const id = message.includes('found none') ? 'outbox-column-missing' : 'outbox-column-unfit'
    const before = await look(mapping(columns), { 'before-setup': true })
    expect(before.code).toBe(4)
    expect(before.open).toEqual([id])
    await expect(setUp(mapping(columns))).rejects.toMatchObject({
      exitCode: 2,
      message: expect.stringContaining(message),
    })
    expect((await client.query('select from pg_replication_slots where database = current_database()')).rowCount).toBe(
      0,
    )
    const [finding] = before.findings
    for (const part of message.matchAll(/type [a-z[\]]+|generated column/g)) expect(finding?.is).toContain(part[0])
  })

  test('a generated column in the template of the stream', async () => {
    await client.query(
      "create table public.events (id uuid primary key, type text, kind text generated always as ('k') stored)",
    )
    await expect(setUp(mapping())).rejects.toThrow(
      'outbox.stream: expected a column that is not generated, found column kind',
    )
  })
})

test('the types that a mapping may have are accepted: domains, enums, varchar and text among them', async () => {
  await client.query(`create type kind as enum ('k'); create domain payload as jsonb; create domain nested as payload;
    create type code; create function code_in(cstring) returns code language internal immutable strict as 'textin';
    create function code_out(code) returns cstring language internal immutable strict as 'textout';
    create type code (input = code_in, output = code_out, like = text);
    create table public.events (id bigint primary key, kind kind, type varchar(20), subject code, data nested, h text,
      at timestamp, v smallint, c date)`)
  const all = mapping({
    subject: 'subject',
    data: 'data',
    headers: 'h',
    time: 'at',
    schemaVersion: 'v',
    correlationId: 'c',
  })
  expect((await setUp(all)).code).toBe(0)
  expect((await look(all)).open).toEqual([])
})

test('a table that others inherit from is refused by setup and check until the inheritance ends, as the finding says', async () => {
  await client.query(`create table public.events (${BASE}); create table public.child () inherits (public.events)`)
  await expect(setUp(mapping())).rejects.toThrow('found that public.child inherits from it')
  const { findings, open } = await look(mapping(), { 'before-setup': true })
  expect(open).toEqual(['outbox-inherited'])
  await paste(client, findings[0]!.fix[0]!.text)
  expect((await setUp(mapping())).code).toBe(0)
  expect((await look(mapping())).open).toEqual([])
})

test('partitions whose rows never reach the WAL are refused by setup and check until they are logged or detached, as the finding says', async () => {
  await client.query('create table public.events (id uuid, kind text, type text) partition by list (kind)')
  await client.query(`create table public.orders partition of public.events for values in ('orders') partition by list (id);
    create unlogged table public."Rest" partition of public.orders default;
    create foreign data wrapper nowhere; create server far foreign data wrapper nowhere;
    create foreign table public.old partition of public.events for values in ('old') server far`)
  await expect(setUp(mapping())).rejects.toThrow('public.Rest (unlogged), public.old (foreign)')
  const { findings, open } = await look(mapping(), { 'before-setup': true })
  expect(open).toEqual(['outbox-unlogged'])
  await paste(client, findings[0]!.fix[0]!.text)
  expect((await setUp(mapping())).code).toBe(0)
  expect((await look(mapping())).open).toEqual(['outbox-partition-key'])
})

test("an unlogged partition of Outrider's own table is found, and setup refuses to run before it is logged", async () => {
  await setUp()
  await client.query('alter table outrider.outbox_3 set unlogged')
  const { fix } = await found('outbox-unlogged')
  await expect(setUp()).rejects.toThrow('outrider.outbox_3 (unlogged)')
  await paste(client, fix[0]!.text)
  expect((await look()).open).toEqual([])
})

test("row level security of Outrider's own table is found where it applies to the role, until it is disabled, as the finding says", async () => {
  await setUp()
  const role = pg.escapeIdentifier(`relay_${database.name}`)
  await client.query(`create role ${role} login replication in role outrider_relay`)
  onTestFinished(async () => void (await database.server.query(`drop role ${role}`)))
  await client.query('alter table outrider.outbox enable row level security')
  expect((await look()).open).toEqual([])
  const asRelay = () => runCheck(database.urlAs({ user: `relay_${database.name}` }), redis.url)
  const { open, findings } = await asRelay()
  expect(open).toEqual(['outbox-row-security'])
  await paste(client, findings.find(({ id }) => id === 'outbox-row-security')!.fix[0]!.text)
  expect((await asRelay()).open).toEqual([])
})

test("a partition of Outrider's own table that repairs would read as a whole is found, until it is indexed, as the finding says", async () => {
  await setUp()
  await client.query(`drop index outrider.outbox_txid;
    create index outbox_txid on only outrider.outbox using brin (((txid::text)::bigint))`)
  const { level, fix } = await found('outbox-txid-index')
  expect([level, fix[0]?.text]).toEqual(['warning', 'outrider setup --index txid'])
  await runCommand(setup, database.url, { flags: { index: 'txid' } })
  expect((await look()).open).toEqual([])
})

test('rows that were restored from another cluster are found, until setup has given them transaction ids of this one', async () => {
  await setUp()
  await client.query(
    "insert into outrider.outbox (stream, type, txid) values ('orders', 'test.happened', (pg_current_xact_id()::text::bigint + 1000000)::text::xid8)",
  )
  const { level, fix } = await found('outbox-restored-rows')
  expect([level, fix[0]?.text]).toEqual(['warning', 'outrider setup'])
  await runCommand(setup, database.url)
  expect((await look()).open).toEqual([])
})

test("a schema that was renamed is found, and its finding's statement restores it", async () => {
  await setUp()
  await client.query('alter schema outrider rename to archive')
  const { is, fix } = await found('schema-renamed')
  expect(is).toContain('is named archive')
  await paste(client, fix[0]!.text)
  expect((await look()).open).toEqual([])
})

describe('a table whose name went elsewhere after setup is found, and the first way out is right:', () => {
  test.each([
    ['renamed', 'alter table public.events rename to happened', 'outbox-renamed'],
    [
      'moved and renamed',
      'create schema app; alter table public.events set schema app; alter table app.events rename to happened',
      'outbox-renamed',
    ],
    [
      'swapped',
      'alter table public.events rename to events_old; create table public.events (like public.events_old including all)',
      'outbox-replaced',
    ],
  ])('%s', async (_what, change, id) => {
    await client.query(`create table public.events (${BASE})`)
    await setUp(mapping())
    const { rows } = await client.query("select 'public.events'::regclass::oid as oid")
    await client.query(change)
    const { findings, open } = await look(mapping())
    expect(open).toEqual([id])
    const finding = findings.find((each) => each.id === id)!
    expect(finding.is).toContain(`(oid ${rows[0].oid})`)
    await paste(client, finding.fix[0]!.text)
    expect((await client.query("select 'public.events'::regclass::oid as oid")).rows).toEqual(rows)
    expect((await look(mapping())).open).toEqual([])
  })

  test('renamed and configured under the new name: setup records it, and no slot is made', async () => {
    await client.query(`create table public.events (${BASE})`)
    await setUp(mapping())
    await client.query('alter table public.events rename to happened')
    const next = mapping({}, 'public.happened')
    const { fix } = await found('outbox-renamed', next)
    expect(fix.map(({ text }) => text)).toContain('outrider setup')
    const { code, text } = await setUp(next)
    expect(code).toBe(0)
    expect(text).toContain('present  slot')
    expect((await look(next)).open).toEqual([])
  })

  test('another table under the configured name is no rename: setup refuses it', async () => {
    await client.query(`create table public.events (${BASE}); create table public.other (${BASE})`)
    await setUp(mapping())
    await expect(setUp(mapping({}, 'public.other'))).rejects.toThrow('outbox.table: expected public.events')
  })
})

describe('a mapped table that is partitioned', () => {
  test('by a column that changes is a warning, and its trigger refuses the UPDATE that would publish again', async () => {
    await client.query(`create table public.events (id uuid, kind text, type text, state text) partition by list (state);
      create table public.new partition of public.events for values in ('new');
      create table public.done partition of public.events for values in ('done')`)
    await setUp(mapping())
    const finding = await found('outbox-partition-key', mapping())
    expect(finding).toMatchObject({ level: 'warning', is: 'public.events is partitioned by state' })
    await paste(client, finding.fix[0]!.text)
    expect((await look(mapping())).open).toEqual([])
    await client.query("insert into public.events values (gen_random_uuid(), 'k', 't', 'new')")
    await expect(client.query("update public.events set state = 'done'")).rejects.toThrow('must stay in its partition')
    await client.query("update public.events set type = 'u'")
  })

  test('by a column that changes at a lower level alone is a warning, too, also where a trigger guards another column', async () => {
    await client.query(`create table public.events (id uuid, kind text, type text, at timestamptz, state text) partition by range (at);
      create table public.one partition of public.events for values from (minvalue) to (maxvalue) partition by list (state);
      create table public.new partition of public.one for values in ('new');
      create table public.done partition of public.one for values in ('done') partition by list (lower(type))`)
    await setUp(mapping({ time: 'at' }))
    const both = await found('outbox-partition-key', mapping({ time: 'at' }))
    expect(both.is).toBe('public.events is partitioned by state, an expression')
    await client.query('drop table public.done; create table public.done partition of public.one default')
    await client.query(`create trigger of_another before update on public.events for each row
      when (old.kind is distinct from new.kind) execute function outrider.refuse_move()`)
    const finding = await found('outbox-partition-key', mapping({ time: 'at' }))
    expect(finding).toMatchObject({ level: 'warning', is: 'public.events is partitioned by state' })
    await paste(client, finding.fix[0]!.text)
    expect((await look(mapping({ time: 'at' }))).open).toEqual([])
    await client.query("insert into public.events values (gen_random_uuid(), 'k', 't', now(), 'new')")
    await expect(client.query("update public.events set state = 'done'")).rejects.toThrow('must stay in its partition')
    await client.query("update public.events set type = 'u'")
  })

  test('by one more column than its trigger names is a warning, and the statement replaces the trigger', async () => {
    await client.query(`create table public.events (id uuid, kind text, type text, state text) partition by list (state);
      create table public.new partition of public.events for values in ('new')`)
    await setUp(mapping())
    await paste(client, (await found('outbox-partition-key', mapping())).fix[0]!.text)
    await client.query(`create table public.rest partition of public.events default partition by list (kind);
      create table public.k partition of public.rest for values in ('k');
      create table public.l partition of public.rest for values in ('l')`)
    const finding = await found('outbox-partition-key', mapping())
    expect(finding.is).toBe('public.events is partitioned by kind')
    await paste(client, finding.fix[0]!.text)
    expect((await look(mapping())).open).toEqual([])
    await client.query("insert into public.events values (gen_random_uuid(), 'k', 't', 'done')")
    for (const change of ["state = 'new'", "kind = 'l'"]) {
      await expect(client.query(`update public.events set ${change}`)).rejects.toThrow('must stay in its partition')
    }
  })

  test('by the time or the id of the event is none', async () => {
    await client.query(`create table public.events (id uuid, kind text, type text, at timestamptz) partition by range (at);
      create table public.one partition of public.events for values from (minvalue) to (maxvalue)`)
    await setUp(mapping({ time: 'at' }))
    expect((await look(mapping({ time: 'at' }))).open).toEqual([])
  })
})

describe('the limit of a payload', () => {
  const insert = (bytes: number) =>
    client.query("insert into outrider.outbox (stream, type, data) values ('orders', 't', $1)", [
      `"${'x'.repeat(bytes - 2)}"`,
    ])

  test('is what setup was told: the INSERT fails, rows that are there stay, and another setup replaces it', async () => {
    await setUp(undefined, { maxEventBytes: 2_000 })
    await insert(2_000)
    await expect(insert(2_001)).rejects.toMatchObject({ constraint: 'outbox_data_at_most_2000_bytes' })
    await setUp(undefined, { maxEventBytes: 1_000 })
    await expect(insert(1_001)).rejects.toMatchObject({ constraint: 'outbox_data_at_most_1000_bytes' })
    await setUp(undefined, { maxEventBytes: 3_000 })
    await insert(3_000)
    const { rows } = await client.query(
      "select conname from pg_constraint where conrelid = 'outrider.outbox'::regclass and conname ~ 'bytes$'",
    )
    expect(rows).toEqual([{ conname: 'outbox_data_at_most_3000_bytes' }])
  })

  test('that cannot be set because the table is in use names what holds its lock, and what to do', async () => {
    await setUp()
    const writer = await database.connect()
    onTestFinished(() => writer.end())
    await writer.query("set application_name = 'shop'; begin; select outrider.publish('orders', 'x')")
    const { rows } = await writer.query('select pg_backend_pid() as pid')
    await expect(limitData(client, 1_000, 50)).rejects.toThrow(
      new RegExp(
        `could not be limited to 1000 bytes: the table was in use for 50 ms.* Found in use by: pid ${rows[0].pid} \\(shop, transaction open for 00:00:0\\d\\)\\. .*run \`outrider setup\` again`,
      ),
    )
  })

  test('that differs from the configuration is a warning, and setup replaces it', async () => {
    await setUp(undefined, { maxEventBytes: 1_000 })
    const { is, expected, fix } = await found('outbox-data-limit')
    expect(is).toBe('outrider.outbox takes data of at most 1000 bytes')
    expect(expected).toContain('1048576 bytes')
    expect(fix[0]?.text).toBe('outrider setup')
    await setUp()
    expect((await look()).open).toEqual([])
  })
})
