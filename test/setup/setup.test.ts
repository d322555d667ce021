import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { teardown } from '../../src/cli/teardown.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { createSlot } from '../../src/postgres/replication/slot-creation.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { readMigrations } from '../../src/postgres/setup/migration.js'
import { currentLineage, insertLineage } from '../../src/postgres/state/lineage.js'
import { createDatabase, type Database } from '../../testkit/services/index.js'
import { type CommandRun, runCommand } from '../support/command.js'

const MIGRATIONS = (await readMigrations()).map(({ name }) => name)

let database: Database
let client: pg.Client
let slot: string

beforeEach(async () => {
  database = await createDatabase()
  client = await database.connect()
  slot = `outrider_${database.name}`
})

afterEach(async () => {
  await client.end()
  await database.drop()
})

const run = (options?: CommandRun) => runCommand(setup, database.url, options)
const lineage = () => currentLineage(client, slot)
const one = async (sql: string, values: unknown[] = []) => (await client.query(sql, values)).rows[0]
const slotRow = () =>
  one(
    'select plugin, two_phase, temporary, confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = $1',
    [slot],
  )
const dropSlot = () => client.query('select pg_drop_replication_slot($1)', [slot])

describe('a fresh database', () => {
  test('gets schema, publication, lineage and slot, and says so', async () => {
    const { code, text } = await run()
    expect(code).toBe(0)
    expect(text).toContain(`created  schema outrider (${MIGRATIONS.join(', ')})`)
    expect(text).toContain('created  publication outrider for outrider.outbox')
    expect(text).toContain(`created  slot ${slot}`)
    const found = await lineage()
    const identity = await one('select system_identifier::text as id from pg_control_system()')
    expect(found).toMatchObject({
      slot,
      publication: 'outrider',
      source: `/${database.name}`,
      systemId: identity.id,
      timeline: 1,
      outboxTable: 'outrider.outbox',
      publicationState: (await one("select outrider.publication_state('outrider') as state")).state,
    })
    expect(await slotRow()).toEqual({
      plugin: 'pgoutput',
      two_phase: false,
      temporary: false,
      lsn: found?.confirmedLsn,
    })
    expect(await one('select pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot from pg_publication')).toEqual({
      pubinsert: true,
      pubupdate: false,
      pubdelete: false,
      pubtruncate: false,
      pubviaroot: true,
    })
  })

  test('from Postgres 17 on the slot follows a failover', async () => {
    await run()
    const { version } = await one("select current_setting('server_version_num')::int as version")
    const { failover } = await one(
      "select to_jsonb(s) -> 'failover' as failover from pg_replication_slots as s where slot_name = $1",
      [slot],
    )
    expect(failover).toBe(version >= 170_000 ? true : null)
  })

  test('prints JSON when asked', async () => {
    const { text } = await run({ json: true })
    expect(JSON.parse(text)).toMatchObject({
      migrations: MIGRATIONS,
      publication: 'created',
      slot: 'created',
      lineage: { slot },
      findings: [],
    })
  })

  test('two setups at once make one lineage', async () => {
    const both = await Promise.all([run({ json: true }), run({ json: true })])
    expect(both.map(({ text }) => JSON.parse(text).slot).sort()).toEqual(['created', 'present'])
    expect(await one('select count(*)::int from outrider.lineage')).toEqual({ count: 1 })
  })

  test('only the inbox, for workers', async () => {
    const { code, text } = await run({ flags: { only: 'inbox' } })
    expect({ code, text }).toEqual({ code: 0, text: 'created  schema outrider (002-inbox, 004-inbox)' })
    expect(await slotRow()).toBeUndefined()
  })

  test.each([{ only: 'outbox' }, { 'lock-timeout': 'soon' }, { 'lock-timeout': '0' }])('refuses %j', async (flags) => {
    await expect(run({ flags })).rejects.toMatchObject({ name: 'OutriderError', exitCode: 2 })
  })

  test('a slot of that name that Outrider did not make is left alone', async () => {
    await client.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
    await expect(run()).rejects.toThrow(`Expected the slot name ${slot} to be free, found a slot of that name`)
    expect(await one("select to_regnamespace('outrider') as schema")).toEqual({ schema: null })
  })

  test.each([
    ["with (publish = 'insert')", 'publishes partitions under their own names'],
    ['with (publish_via_partition_root = true)', 'publishes more than inserts'],
    ["where (type = 'x') with (publish = 'insert', publish_via_partition_root)", 'leaves out rows or columns of it'],
    [", outrider.inbox with (publish = 'insert', publish_via_partition_root)", 'publishes outrider.inbox'],
  ])('a publication %s is refused', async (how, what) => {
    await migrate(client)
    await client.query(`create publication outrider for table outrider.outbox ${how}`)
    const message = String(await run().catch((error) => error))
    expect(message).toContain(`found that it ${what}`)
    expect(await slotRow()).toBeUndefined()
    const [, statements] = /If nothing else uses it: `([^`]+)`/.exec(message)!
    expect(statements).toMatch(
      /^(begin; drop publication "outrider"; create|alter publication "outrider" drop table only)/,
    )
    await client.query(statements!)
    expect((await run()).code).toBe(0)
  })

  test('a publication that lists a parent without its child leads on as it is refused: the parent alone is dropped from it', async () => {
    await migrate(client)
    await client.query(`create table parent (id int); create table child () inherits (parent);
      create publication outrider for table outrider.outbox, only parent with (publish = 'insert', publish_via_partition_root)`)
    const message = String(await run().catch((error) => error))
    await client.query(/If nothing else uses it: `([^`]+)`/.exec(message)![1]!)
    expect((await run()).code).toBe(0)
  })

  test('an open write transaction is named when the slot has waited for it long enough, and setup continues later', async () => {
    const writer = await database.connect()
    await writer.query("set application_name = 'a-slow-import'; begin; select pg_current_xact_id()")
    const { pid } = (await writer.query('select pg_backend_pid() as pid')).rows[0]
    const failure = await run({ flags: { 'lock-timeout': '200ms' } }).catch((error: Error) => error.message)
    expect(failure).toContain('within 200 ms')
    expect(failure).toContain(`pid ${pid} (a-slow-import, database ${database.name}, open for 00:00:0`)
    await expect(lineage()).rejects.toThrow('its setup was interrupted')
    await writer.end()
    const { text } = await run({ json: true })
    expect(JSON.parse(text)).toMatchObject({ migrations: [], publication: 'present', slot: 'created' })
    expect((await lineage())?.confirmedLsn).toBe((await slotRow()).lsn)
  })
})

describe('a schema that was renamed is not created a second time, and the statement of the message restores it:', () => {
  const refused = () => run().then(String, (error: Error) => error.message)
  const advised = (message: string) => /`((?:begin|alter)[^`]+;)`/.exec(message)![1]!

  beforeEach(async () => {
    await run()
    await client.query('alter schema outrider rename to "Archive"')
  })

  test('nothing has the name now', async () => {
    const message = await refused()
    expect(message).toContain('found that the schema of this slot and publication is named Archive.')
    expect(await one("select to_regnamespace('outrider') as schema")).toEqual({ schema: null })
    await client.query(advised(message))
    expect((await run()).text).toContain('present  slot')
  })

  test('an earlier version has created a second one', async () => {
    await migrate(client)
    const message = await refused()
    expect(message).toContain('and that another one is named outrider.')
    expect(message).not.toContain('drop')
    await client.query(advised(message))
    expect((await run()).text).toContain('present  slot')
  })

  test('an older archive with the same tables is not taken for it', async () => {
    await client.query('update "Archive".lineage set retired_at = now()')
    await dropSlot()
    await client.query('drop publication outrider')
    await run()
    await client.query('alter schema outrider rename to live')
    expect(await refused()).toContain('is named live.')
    await client.query('drop publication outrider')
    expect(await refused()).toContain('is named live.')
  })

  test('with its slot gone the message promises no rows in WAL', async () => {
    await dropSlot()
    const message = await refused()
    expect(message).toContain('is named Archive.')
    expect(message).not.toContain('WAL')
  })

  test('with its slot and publication gone it is an archive, and setup starts again', async () => {
    await dropSlot()
    await client.query('drop publication outrider')
    expect((await run()).text).toContain('created  slot')
  })
})

describe('an interrupted setup is finished', () => {
  const options = () => ({ slot, publication: 'outrider', source: '/shop', outboxTable: 'outrider.outbox' })

  beforeEach(async () => {
    await migrate(client)
    await client.query(
      "create publication outrider for table outrider.outbox with (publish = 'insert', publish_via_partition_root = true)",
    )
  })

  test('between lineage and slot', async () => {
    const started = await insertLineage(client, options())
    expect((await run()).code).toBe(0)
    expect(await lineage()).toEqual({ ...started, confirmedLsn: (await slotRow()).lsn })
  })

  test('between slot and its LSN in the lineage', async () => {
    const started = await insertLineage(client, options())
    await createSlot(client, slot, 60_000)
    expect((await run()).code).toBe(0)
    expect(await lineage()).toEqual({ ...started, confirmedLsn: (await slotRow()).lsn })
  })

  test('is finished also when the publication was created again meanwhile', async () => {
    await insertLineage(client, options())
    await client.query('drop publication outrider')
    await run()
    expect((await lineage())?.publicationState).toBe(
      (await one("select outrider.publication_state('outrider') as state")).state,
    )
  })
})

describe('a database that is set up', () => {
  beforeEach(async () => {
    await run({ config: { streams: { orders: { partitions: 4 } } } })
  })

  test('stays as it is', async () => {
    const before = await lineage()
    const { code, text } = await run()
    expect(code).toBe(0)
    expect(text).toMatch(/^present {2}schema outrider\npresent {2}publication outrider.*\npresent {2}slot/)
    expect(await lineage()).toEqual(before)
  })

  test('never gets a second slot', async () => {
    await dropSlot()
    await expect(run()).rejects.toThrow(/found none: events committed after .* may never reach Redis.*outrider adopt/)
    expect(await slotRow()).toBeUndefined()
  })

  test.each([
    ['OUTRIDER_SOURCE', { source: '/other' }],
    ['OUTRIDER_PUBLICATION', { publication: 'other' }],
    ['outbox.table', { outbox: { ...OWN_OUTBOX, table: 'public.other' } }],
  ])('refuses another %s', async (setting, config) => {
    await expect(run({ config })).rejects.toMatchObject({
      exitCode: 2,
      message: expect.stringContaining(`${setting}: expected`),
    })
  })

  test('takes the same source', async () => {
    expect((await run({ config: { source: `/${database.name}` } })).code).toBe(0)
  })

  test('refuses a server that is not the one of the lineage', async () => {
    await client.query("update outrider.lineage set system_id = '1'")
    await expect(run()).rejects.toThrow('this database was restored, upgraded or copied')
    await client.query('update outrider.lineage set system_id = $1, timeline = 2', [
      (await one('select system_identifier::text as id from pg_control_system()')).id,
    ])
    await expect(run()).rejects.toThrow('timeline 2 or later')
  })

  test('a missing publication is made again, and the hole is an incident', async () => {
    const before = await lineage()
    await client.query('drop publication outrider')
    const { code, text } = await run()
    expect(code).toBe(4)
    expect(text).toContain('may have been skipped: see `outrider incidents show 1`')
    expect((await client.query('select kind, reason, closed_at from outrider.incident')).rows).toEqual([
      { kind: 'gap', reason: 'publication_missing', closed_at: null },
    ])
    expect(await lineage()).toEqual(before)
  })

  describe('and a second slot of the same table', () => {
    const second = () => ({ config: { slot: `${slot}_b` } })
    const slots = async () =>
      (await client.query('select slot_name from pg_replication_slots where database = $1', [database.name])).rowCount

    test('is refused before anything of it is there, and the first continues', async () => {
      const config = { ...second().config, publication: 'another' }
      await expect(run({ config })).rejects.toMatchObject({
        exitCode: 2,
        message: expect.stringMatching(
          `^OUTRIDER_SLOT: expected .*, found that outrider.outbox is published through slot ${slot}\\. ` +
            `.*set OUTRIDER_SLOT=${slot}; .*\`outrider teardown\` with OUTRIDER_SLOT=${slot}.*--accept-findings`,
        ),
      })
      expect(await slots()).toBe(1)
      expect(await one('select count(*)::int from outrider.lineage')).toEqual({ count: 1 })
      expect(await one('select count(*)::int from pg_publication')).toEqual({ count: 1 })
      expect((await run()).code).toBe(0)
    })

    test('is made with --accept-findings, and is a finding from then on', async () => {
      const accepting = { ...second(), flags: { 'accept-findings': true } }
      const found = `outrider.outbox is published through slot ${slot} as well`
      expect(await run(accepting)).toMatchObject({ code: 0, text: expect.stringContaining(found) })
      expect(await slots()).toBe(2)
      expect(await run(second())).toMatchObject({ code: 4, text: expect.stringContaining(found) })
      expect(await run(accepting)).toMatchObject({ code: 0, text: expect.stringContaining(found) })
    })

    test('is made once the first was torn down', async () => {
      await runCommand(teardown, database.url, { answer: true })
      expect((await run(second())).code).toBe(0)
      expect(await slots()).toBe(1)
    })
  })

  test('the number of partitions is fixed', async () => {
    await expect(run({ config: { streams: { orders: { partitions: 8 } } } })).rejects.toThrow(
      'streams.orders.partitions: found 4, fixed when it was set up, and 8 in the configuration.',
    )
    await run({ config: { streams: { orders: { partitions: 4 }, mails: { partitions: 2 }, logs: {} } } })
    expect((await client.query('select stream, partitions from outrider.stream order by 1')).rows).toEqual([
      { stream: 'mails', partitions: 2 },
      { stream: 'orders', partitions: 4 },
    ])
  })

  test('a stream that was published whole cannot be partitioned', async () => {
    await client.query(
      `with s as (insert into outrider.session (session, lineage, hostname, pid, version, timeline)
         select gen_random_uuid(), lineage, 'h', 1, '1', 1 from outrider.lineage returning session, lineage)
       insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
         select lineage, 'whole', 'p', 'e', '1-1', session from s`,
    )
    await expect(run({ config: { streams: { whole: { partitions: 2 } } } })).rejects.toThrow(
      'streams.whole.partitions: found that it was published without partitions',
    )
  })
})

describe("a team's own table", () => {
  const outbox = { table: 'Shop.outbox_events', stream: 'events', columns: { id: 'id', type: 'type' } }
  const mapped = { outbox }

  beforeEach(async () => {
    await client.query('create schema "Shop"')
  })

  test('is published instead, and the relay may read it', async () => {
    await client.query('create table "Shop".outbox_events (id uuid primary key, type text)')
    await run({ config: mapped })
    expect((await lineage())?.outboxTable).toBe('Shop.outbox_events')
    expect(await one('select schemaname, tablename from pg_publication_tables')).toEqual({
      schemaname: 'Shop',
      tablename: 'outbox_events',
    })
    expect(
      await one("select has_table_privilege('outrider_relay', '\"Shop\".outbox_events', 'select') as may"),
    ).toEqual({
      may: true,
    })
  })

  test.each([
    ['select 1', 'nothing of this name'],
    ['create view "Shop".outbox_events as select 1', 'something that is not a table'],
    ['create unlogged table "Shop".outbox_events (id uuid primary key)', 'an unlogged or temporary table'],
  ])('%s: refused', async (sql, found) => {
    await client.query(sql)
    await expect(run({ config: mapped })).rejects.toThrow(`expected the table Shop.outbox_events, found ${found}`)
  })
})

test('a database in another encoding is refused', async () => {
  await client.query(`create database ${database.name}_latin encoding 'LATIN1' locale 'C' template template0`)
  try {
    await expect(runCommand(setup, database.server.url(`${database.name}_latin`))).rejects.toThrow(
      'Expected a database in UTF8, found LATIN1',
    )
  } finally {
    await client.query(`drop database ${database.name}_latin`)
  }
})
