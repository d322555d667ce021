import { expect } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import type { OutboxMapping } from '../../src/config/schema.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { test } from './fixture.js'
import type { Scenario } from './scenario.js'

const TABLE = 'public.outboxevent'
const CREATE = `create table ${TABLE} (id text primary key, stream text, type text)`
const mapping = (table = TABLE): OutboxMapping => ({ table, stream: '{stream}', columns: { id: 'id', type: 'type' } })
const yaml = (table = TABLE) => `
outbox:
  table: ${table}
  stream: '{stream}'
  columns: { id: id, type: type }
`

const add = (s: Scenario, table: string, ...ids: string[]) =>
  s.postgres.query(`insert into ${table} (id, stream, type) select id, 'orders', 't' from unnest($1::text[]) as id`, [
    ids,
  ])

const published = (s: Scenario, ...ids: string[]) =>
  until(async () => expect(await s.ids('orders')).toEqual(ids) ?? true, { message: `${ids} in the stream` })

const openIncidents = async (s: Scenario) =>
  (await s.postgres.query('select id::text, kind, reason from outrider.incident where closed_at is null order by id'))
    .rows

const close = (s: Scenario, id: string) => runCommand(incidents, s.database.url, { args: ['close', id], answer: true })

/** A relay that has published the event `first` of a mapped table. */
async function running(s: Scenario, file: string): Promise<RelayProcess> {
  const relay = await s.relay({ OUTRIDER_CONFIG: file })
  await relay.streaming()
  await add(s, TABLE, 'first')
  await published(s, 'first')
  return relay
}

const mapped = { outbox: { table: TABLE, create: CREATE } }

test.for([
  [
    'renamed',
    `alter table ${TABLE} rename to events`,
    'public.events',
    'alter table public.events rename to outboxevent',
  ],
  [
    'in a schema that is renamed',
    'alter schema public rename to app',
    'app.outboxevent',
    'alter schema app rename to public',
  ],
] as const)(
  'a mapped table that is %s halts the relay, and renaming it back loses no row',
  async ([, rename, name, back], { scenario, configFile }) => {
    const s = await scenario(mapped)
    const relay = await running(s, await configFile(yaml()))
    await s.postgres.query(rename)
    await add(s, name, 'at once')
    await relay.is({ role: 'halted', reason: 'outbox_renamed' })
    const { message, code } = (await relay.status())!
    expect(code).toBe(503)
    expect(message).toContain(`Expected the outbox table ${TABLE}, found that it is named ${name} now`)
    await add(s, name, 'halted')
    expect(await openIncidents(s)).toEqual([])

    await s.postgres.query(back)
    await relay.streaming()
    await add(s, TABLE, 'last')
    await published(s, 'first', 'at once', 'halted', 'last')
  },
)

test('a table that was renamed continues under its new name once setup has run with it, and no row is lost', async ({
  scenario,
  configFile,
}) => {
  const s = await scenario(mapped)
  const relay = await running(s, await configFile(yaml()))
  await s.postgres.query(
    `create schema app; alter table ${TABLE} set schema app; alter table app.outboxevent rename to events`,
  )
  await add(s, 'app.events', 'at once')
  await relay.is({ role: 'halted', reason: 'outbox_renamed' })
  await add(s, 'app.events', 'halted')

  // A relay of the new configuration waits for setup in its own words.
  const next = await s.relay({ OUTRIDER_CONFIG: await configFile(yaml('app.events')) })
  await relay.stop()
  await next.is({ role: 'halted', reason: 'setup_differs' })
  expect((await next.status())?.message).toContain('run `outrider setup` with this configuration')

  const { code } = await runCommand(setup, s.database.url, { config: { slot: s.slot, outbox: mapping('app.events') } })
  expect(code).toBe(0)
  await next.streaming()
  await add(s, 'app.events', 'last')
  await published(s, 'first', 'at once', 'halted', 'last')
})

test('a relay refuses a configuration that names another table than setup did, and skips nothing', async ({
  scenario,
  configFile,
}) => {
  const s = await scenario(mapped)
  await s.postgres.query(`create table public.other (like ${TABLE})`)
  const relay = await s.relay({ OUTRIDER_CONFIG: await configFile(yaml('public.other')) })
  await add(s, TABLE, 'first')
  await relay.is({ role: 'halted', reason: 'setup_differs' })
  expect((await relay.status())?.message).toContain(`outbox.table: expected ${TABLE}`)
  await relay.stop()
  await s.relay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await published(s, 'first')
})

const SWAP = `begin;
  create table public.outboxevent_new (like ${TABLE} including all);
  alter table ${TABLE} rename to outboxevent_old;
  alter table public.outboxevent_new rename to outboxevent;
  commit`

/** A relay whose table was swapped, and the incident. */
async function swapped(s: Scenario, file: string): Promise<{ relay: RelayProcess; id: string }> {
  const relay = await running(s, file)
  await s.postgres.query(SWAP)
  await add(s, TABLE, 'unseen')
  await relay.is({ role: 'halted', reason: 'outbox_replaced' })
  const [incident, ...others] = await openIncidents(s)
  expect([incident?.kind, incident?.reason, others]).toEqual(['gap', 'outbox_replaced', []])
  await add(s, 'public.outboxevent_old', 'behind')
  await expect(close(s, incident!.id)).rejects.toThrow(
    'cannot be closed while publication outrider publishes public.outboxevent_old',
  )
  return { relay, id: incident!.id }
}

test('a table that is swapped for another is a gap; swapped back, with the unseen rows inserted again, it loses none', async ({
  scenario,
  configFile,
}) => {
  const s = await scenario(mapped)
  const { relay, id } = await swapped(s, await configFile(yaml()))
  await s.postgres.query(
    `alter table ${TABLE} rename to unseen; alter table public.outboxevent_old rename to outboxevent`,
  )
  await close(s, id)
  await relay.streaming()
  await s.postgres.query(`insert into ${TABLE} select * from unseen`)
  await published(s, 'first', 'behind', 'unseen')
})

test('a table that is swapped for another, and the publication with it: the rows of both are published', async ({
  scenario,
  configFile,
}) => {
  const s = await scenario(mapped)
  const { relay, id } = await swapped(s, await configFile(yaml()))
  await s.postgres.query(`alter publication outrider set table ${TABLE}`)
  await until(async () => (await openIncidents(s)).length === 2)
  const [, changed] = await openIncidents(s)
  expect(changed?.reason).toBe('publication_changed')
  await close(s, id)
  await close(s, changed!.id)
  await relay.streaming()
  await s.postgres.query(`with unseen as (delete from ${TABLE} returning *) select 1`)
  await add(s, TABLE, 'unseen')
  await published(s, 'first', 'behind', 'unseen')
})

test("Outrider's own table behind a view: halted, also at the next start, and renaming it back loses no row", async ({
  scenario,
}) => {
  const s = await scenario()
  const relay = await s.relay()
  await relay.streaming()
  const ids = [await s.insert('orders')]
  await s.postgres.query(`alter table outrider.outbox rename to outbox_rows;
    create view outrider.outbox as select * from outrider.outbox_rows`)
  const insert = "insert into outrider.outbox (id, stream, type) values (gen_random_uuid(), 'orders', 't') returning id"
  await s.postgres.query(`alter view outrider.outbox alter schema_version set default 1, alter headers set default '{}',
    alter created_at set default now(), alter bucket set default 0, alter txid set default pg_current_xact_id(), alter seq set default 0`)
  ids.push((await s.postgres.query(insert)).rows[0].id)
  await relay.is({ role: 'halted', reason: 'outbox_renamed' })
  await relay.stop()
  const next = await s.relay()
  await next.is({ role: 'halted', reason: 'outbox_renamed' })
  ids.push((await s.postgres.query(insert)).rows[0].id)
  await s.postgres.query('drop view outrider.outbox; alter table outrider.outbox_rows rename to outbox')
  await next.streaming()
  await published(s, ...ids)
})

test('a table that inherits from the outbox table is a gap until the inheritance ends, as the message says', async ({
  scenario,
  configFile,
}) => {
  const s = await scenario(mapped)
  const relay = await running(s, await configFile(yaml()))
  await s.postgres.query(`create table public.child () inherits (${TABLE})`)
  await add(s, 'public.child', 'in the child')
  await relay.is({ role: 'halted', reason: 'outbox_inherited' })
  await add(s, TABLE, 'meanwhile')
  const [incident] = await openIncidents(s)
  const refused = await close(s, incident!.id).catch((error: Error) => error.message)
  const [, statement] = /`(alter table [^`]+)`/.exec(String(refused))!
  await s.postgres.query(statement!)
  await close(s, incident!.id)
  await relay.streaming()
  await s.postgres.query(`insert into ${TABLE} select * from public.child`)
  await published(s, 'first', 'meanwhile', 'in the child')
})

test('rows of another table in the stream halt the relay with the slot before them, and are skipped only once that is decided', async ({
  scenario,
  configFile,
}) => {
  const s = await scenario(mapped)
  const relay = await running(s, await configFile(yaml()))
  await s.postgres.query(`create table public.other (like ${TABLE})`)
  // In one transaction, so that the row is met before the changed publication is.
  await s.postgres.query(`begin; alter publication outrider add table public.other;
    insert into public.other values ('foreign', 'orders', 't'); commit`)
  const { rows } = await s.postgres.query('select pg_current_wal_lsn()::text as lsn')
  await add(s, TABLE, 'behind')
  await until(async () => (await openIncidents(s)).length === 2)
  expect((await openIncidents(s)).map(({ reason }) => reason).sort()).toEqual([
    'outbox_foreign_rows',
    'publication_changed',
  ])
  const past = async () =>
    (
      await s.postgres.query(
        'select confirmed_flush_lsn >= $2 as past from pg_replication_slots where slot_name = $1',
        [s.slot, rows[0].lsn],
      )
    ).rows[0].past
  expect(await past()).toBe(false)
  expect(await s.ids('orders')).toEqual(['first'])
  for (const { id } of await openIncidents(s)) await close(s, id)
  await relay.streaming()
  await published(s, 'first', 'behind')
  await until(past)
})
