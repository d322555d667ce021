import type pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { sqlState } from '../../src/postgres/client/transaction.js'
import { BUCKETS, hasBucketDefault } from '../../src/postgres/outbox/buckets.js'
import { limitData } from '../../src/postgres/outbox/data-limit.js'
import { setBucketDefault } from '../../src/postgres/setup/bucket-default.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { readMigrations } from '../../src/postgres/setup/migration.js'
import { createDatabase, type Database, until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { LOCK_WAITS } from '../support/lock-waits.js'

const EARLIER = (await readMigrations()).filter(({ version }) => version < 7)
const ALL = await readMigrations()

let database: Database
let client: pg.Client
const others: pg.Client[] = []

beforeEach(async () => {
  database = await createDatabase()
  client = await database.connect()
})

afterEach(async () => {
  for (const other of others.splice(0)) await other.end().catch(() => {})
  await client.end()
  await database.drop()
})

async function connect(): Promise<pg.Client> {
  const other = await database.connect()
  other.on('error', () => {})
  others.push(other)
  return other
}

const run = (config = {}) => runCommand(setup, database.url, { config })

const insert = async (from: pg.ClientBase = client): Promise<void> => {
  await from.query("insert into outrider.outbox (stream, type) values ('orders', 'placed')")
}

const one = async (sql: string) => (await client.query(sql)).rows[0]

async function partitions(): Promise<number[]> {
  const { rows } = await client.query(
    `select substring(relname from '\\d+$')::integer as bucket from pg_inherits join pg_class on oid = inhrelid
     where inhparent = 'outrider.outbox'::regclass order by 1`,
  )
  return rows.map(({ bucket }) => bucket)
}

/** As version 006 has set it up, with events in its buckets. */
async function earlier(): Promise<void> {
  await migrate(client, { migrations: EARLIER })
  await limitData(client, 1_048_576)
  await client.query(
    `insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, publication_state)
     select 'outrider_' || current_database(), 'outrider', '/shop', 'outrider.outbox', system_identifier::text, 1, ''
     from pg_control_system()`,
  )
  await client.query(
    `insert into outrider.outbox (stream, type, bucket) select 'orders', 'placed', n % 8 from generate_series(1, 80) as n`,
  )
}

test('a new database has 24 buckets, of which inserts use one for four hours, all of them indexed', async () => {
  expect((await run()).code).toBe(0)
  expect(await partitions()).toEqual(BUCKETS)
  await insert()
  expect(await one('select bucket = outrider.bucket() as current from outrider.outbox')).toEqual({ current: true })
  expect(
    await one(
      `select extract(epoch from clock_timestamp())::bigint / 14400 % 24 = outrider.bucket() as four_hours,
         (select indisvalid from pg_index where indexrelid = 'outrider.outbox_txid'::regclass) as indexed,
         (select predates_retention from outrider.lineage) as predates`,
    ),
  ).toEqual({ four_hours: true, indexed: true, predates: false })
})

test('setup makes inserts use a bucket for as long as retention needs, and no longer once it is shorter again', async () => {
  const hours = async (retention?: number) => {
    expect((await run(retention === undefined ? {} : { retention: retention * 3_600_000 })).code).toBe(0)
    return (await one('select outrider.bucket_seconds() / 3600 as hours')).hours
  }
  expect([await hours(30 * 24), await hours()]).toEqual([40, 4])
})

test('the eight buckets of an earlier version become 24, every row stays, and it is known that no one asked for retention', async () => {
  await earlier()
  expect((await run()).code).toBe(0)
  expect(await partitions()).toEqual(BUCKETS)
  expect(await hasBucketDefault(client)).toBe(true)
  expect(await one('select count(*)::int as rows, max(bucket) as last from outrider.outbox')).toEqual({
    rows: 80,
    last: 7,
  })
  expect(await one('select predates_retention as predates from outrider.lineage')).toEqual({ predates: true })
})

test('a limit of data and a search index that were there before hold for the new buckets', async () => {
  await earlier()
  await client.query(
    `alter table outrider.outbox drop constraint outbox_data_at_most_1048576_bytes,
       add constraint outbox_data_at_most_10_bytes check (octet_length(data::text) <= 10) not valid;
     create index outbox_subject on outrider.outbox (subject)`,
  )
  await migrate(client)
  await expect(
    client.query(
      `insert into outrider.outbox (stream, type, data, bucket) values ('orders', 'placed', '"much too long"', 20)`,
    ),
  ).rejects.toMatchObject({ constraint: 'outbox_data_at_most_10_bytes' })
  await expect(
    client.query(`insert into outrider.outbox (stream, type, bucket) values ('orders', 'placed', 20);
      update outrider.outbox set bucket = 3 where bucket = 20`),
  ).rejects.toThrow('must stay in its partition')
  expect(
    await one(`select count(*)::int as indexes from pg_inherits where inhparent = 'outrider.outbox_subject'::regclass`),
  ).toEqual({ indexes: 24 })
})

test('writers wait for a moment at most while a transaction keeps the table in use for longer than setup waits, and a later run completes it', async () => {
  await earlier()
  const open = await connect()
  // It reads: a writer would keep other tests of this cluster from creating slots.
  await open.query("set application_name = 'nightly-export'; begin; select from outrider.outbox")
  const writer = await connect()
  // Setup waits for 20 ms at a time; the rest is for processes that get no processor.
  await writer.query("set lock_timeout = '500ms'")
  let running = true
  let inserted = 0
  let late = 0
  const writing = (async () => {
    for (; running; inserted++) {
      await insert(writer).catch((error) => {
        if (sqlState(error) !== '55P03') throw error
        late++
      })
    }
  })()
  const { code, text } = await run()
  running = false
  await writing
  // Setup asks 25 times.
  expect(late).toBeLessThan(3)
  expect(inserted).toBeGreaterThan(100)
  expect(code).toBe(4)
  expect(text).toMatch(/Inserts still go to the first 8 buckets.* \(nightly-export, transaction open for /)
  // It is set up, and no bucket is emptied.
  expect(await partitions()).toEqual(BUCKETS)
  expect(await one('select outrider.bucket_refusal(5::smallint, now()) as refusal')).toEqual({ refusal: 'setup' })
  expect(await one('select max(bucket) < 8 as earlier from outrider.outbox')).toEqual({ earlier: true })
  await open.query('commit')
  expect((await run()).code).toBe(0)
  expect(await hasBucketDefault(client)).toBe(true)
  await insert(writer)
})

test('setup that is killed before the new buckets are there leaves those of before, and the next run completes it', async () => {
  await earlier()
  const holder = await connect()
  await holder.query('begin; lock table outrider.lineage in share mode')
  const killed = await connect()
  const migrating = migrate(killed).then(
    () => 'done',
    () => 'killed',
  )
  await until(
    async () =>
      (await client.query(`select from ${LOCK_WAITS} where relation = 'outrider.lineage'::regclass`)).rowCount,
  )
  const { rows } = await client.query(`select pid from ${LOCK_WAITS} where relation = 'outrider.lineage'::regclass`)
  await insert()
  await client.query('select pg_terminate_backend($1)', [rows[0].pid])
  expect(await migrating).toBe('killed')
  await holder.query('commit')
  expect(await partitions()).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
  await insert()
  expect((await run()).code).toBe(0)
  expect(await partitions()).toEqual(BUCKETS)
})

test('setup that is killed before inserts use the new buckets leaves them where they went, and the next run completes it', async () => {
  await earlier()
  expect((await migrate(client)).applied).toEqual(ALL.slice(EARLIER.length).map(({ name }) => name))
  expect(await hasBucketDefault(client)).toBe(false)
  await insert()
  expect(await one('select max(bucket) < 8 as earlier from outrider.outbox')).toEqual({ earlier: true })
  expect((await run()).code).toBe(0)
  expect(await hasBucketDefault(client)).toBe(true)
})

test('where another role runs setup, everything belongs to the owner of the outbox', async () => {
  const name = `owner_${database.name}`
  await migrate(client, { migrations: EARLIER })
  await client.query(
    `create role ${name}; grant create, usage on schema outrider to ${name}; alter table outrider.outbox owner to ${name};
     alter table outrider.outbox_5 owner to ${name}`,
  )
  await migrate(client)
  const { rows } = await client.query(
    `select distinct relowner::regrole::text as owner from pg_class where oid in ('outrider.outbox_8'::regclass, 'outrider.emptied'::regclass)
     union select proowner::regrole::text from pg_proc where proname in ('empty_bucket', 'examine_bucket', 'bucket_refusal')`,
  )
  expect(rows).toEqual([{ owner: name }])
  // And its functions may read what they have to, and lock it.
  await setBucketDefault(client)
  await client.query(
    `create or replace function outrider.bucket() returns smallint language sql volatile return 12::smallint;
     insert into outrider.outbox (stream, type, bucket) values ('orders', 'placed', 5);
     insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, publication_state)
     values ('none', 'outrider', '/shop', 'outrider.outbox', '', 1, '')`,
  )
  await client.query('begin isolation level read committed')
  expect(await one('select outrider.examine_bucket(5::smallint, now()) as refusal')).toEqual({ refusal: 'checkpoint' })
  expect(await one('select outrider.empty_bucket(5::smallint, now()) as refusal')).toEqual({ refusal: 'checkpoint' })
  await client.query('commit')
  await client.query(`reassign owned by ${name} to current_user; drop owned by ${name}; drop role ${name}`)
})
