import { expect } from 'vitest'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import type { OutboxMapping } from '../../src/config/schema.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

const TABLE = 'public.outboxevent'
const CREATE = `create table ${TABLE} (id text primary key, stream text, type text)`
const mapping = (table = TABLE): OutboxMapping => ({ table, stream: '{stream}', columns: { id: 'id', type: 'type' } })
const yaml = (table = TABLE) => `
outbox:
  table: ${table}
  stream: '{stream}'
  columns: { id: id, type: type }
`

const add = (env: RelayEnv, table: string, ...ids: string[]) =>
  env.postgres.query(`insert into ${table} (id, stream, type) select id, 'orders', 't' from unnest($1::text[]) as id`, [
    ids,
  ])

const published = (env: RelayEnv, ...ids: string[]) =>
  until(async () => expect(await env.ids('orders')).toEqual(ids) ?? true, { message: `${ids} in the stream` })

const openIncidents = async (env: RelayEnv) =>
  (await env.postgres.query('select id::text, kind, reason from outrider.incident where closed_at is null order by id'))
    .rows

const close = (env: RelayEnv, id: string) =>
  runCommand(incidents, env.database.url, { args: ['close', id], answer: true })

/** A relay that has published the event `first` of a mapped table. */
async function running(env: RelayEnv, file: string): Promise<RelayProcess> {
  const relay = await env.relay({ OUTRIDER_CONFIG: file })
  await relay.streaming()
  await add(env, TABLE, 'first')
  await published(env, 'first')
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
  async ([, rename, name, back], { createEnv, configFile }) => {
    const env = await createEnv(mapped)
    const relay = await running(env, await configFile(yaml()))
    await env.postgres.query(rename)
    await add(env, name, 'at once')
    await relay.is({ role: 'halted', reason: 'outbox_renamed' })
    const { message, code } = (await relay.status())!
    expect(code).toBe(503)
    expect(message).toContain(`Expected the outbox table ${TABLE}, found that it is named ${name} now`)
    await add(env, name, 'halted')
    expect(await openIncidents(env)).toEqual([])

    await env.postgres.query(back)
    await relay.streaming()
    await add(env, TABLE, 'last')
    await published(env, 'first', 'at once', 'halted', 'last')
  },
)

test('a table that was renamed continues under its new name once setup has run with it, and no row is lost', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await env.postgres.query(
    `create schema app; alter table ${TABLE} set schema app; alter table app.outboxevent rename to events`,
  )
  await add(env, 'app.events', 'at once')
  await relay.is({ role: 'halted', reason: 'outbox_renamed' })
  await add(env, 'app.events', 'halted')

  // A relay of the new configuration waits for setup in its own words.
  const next = await env.relay({ OUTRIDER_CONFIG: await configFile(yaml('app.events')) })
  await relay.stop()
  await next.is({ role: 'halted', reason: 'setup_differs' })
  expect((await next.status())?.message).toContain('run `outrider setup` with this configuration')

  const { code } = await runCommand(setup, env.database.url, {
    config: { slot: env.slot, outbox: mapping('app.events') },
  })
  expect(code).toBe(0)
  await next.streaming()
  await add(env, 'app.events', 'last')
  await published(env, 'first', 'at once', 'halted', 'last')
})

test('a relay refuses a configuration that names another table than setup did, and skips nothing', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  await env.postgres.query(`create table public.other (like ${TABLE})`)
  const relay = await env.relay({ OUTRIDER_CONFIG: await configFile(yaml('public.other')) })
  await add(env, TABLE, 'first')
  await relay.is({ role: 'halted', reason: 'setup_differs' })
  expect((await relay.status())?.message).toContain(`outbox.table: expected ${TABLE}`)
  await relay.stop()
  await env.relay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await published(env, 'first')
})

const SWAP = `begin;
  create table public.outboxevent_new (like ${TABLE} including all);
  alter table ${TABLE} rename to outboxevent_old;
  alter table public.outboxevent_new rename to outboxevent;
  commit`

/** A relay whose table was swapped, and the incident. */
async function swapped(env: RelayEnv, file: string): Promise<{ relay: RelayProcess; id: string }> {
  const relay = await running(env, file)
  await env.postgres.query(SWAP)
  await add(env, TABLE, 'unseen')
  await relay.is({ role: 'halted', reason: 'outbox_replaced' })
  const [incident, ...others] = await openIncidents(env)
  expect([incident?.kind, incident?.reason, others]).toEqual(['gap', 'outbox_replaced', []])
  await add(env, 'public.outboxevent_old', 'behind')
  await expect(close(env, incident!.id)).rejects.toThrow(
    'cannot be closed while publication outrider publishes public.outboxevent_old',
  )
  return { relay, id: incident!.id }
}

test('a table that is swapped for another is a gap; swapped back, with the unseen rows inserted again, it loses none', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const { relay, id } = await swapped(env, await configFile(yaml()))
  await env.postgres.query(
    `alter table ${TABLE} rename to unseen; alter table public.outboxevent_old rename to outboxevent`,
  )
  await close(env, id)
  await relay.streaming()
  await env.postgres.query(`insert into ${TABLE} select * from unseen`)
  await published(env, 'first', 'behind', 'unseen')
})

test('a table that is swapped for another, and the publication with it: the rows of both are published', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const { relay, id } = await swapped(env, await configFile(yaml()))
  await env.postgres.query(`alter publication outrider set table ${TABLE}`)
  await until(async () => (await openIncidents(env)).length === 2)
  const [, changed] = await openIncidents(env)
  expect(changed?.reason).toBe('publication_changed')
  await close(env, id)
  await close(env, changed!.id)
  await relay.streaming()
  await env.postgres.query(`with unseen as (delete from ${TABLE} returning *) select 1`)
  await add(env, TABLE, 'unseen')
  await published(env, 'first', 'behind', 'unseen')
})

test("Outrider's own table behind a view: halted, also at the next start, and renaming it back loses no row", async ({
  createEnv,
}) => {
  const env = await createEnv()
  const relay = await env.relay()
  await relay.streaming()
  const ids = [await env.insert('orders')]
  await env.postgres.query(`alter table outrider.outbox rename to outbox_rows;
    create view outrider.outbox as select * from outrider.outbox_rows`)
  const insert = "insert into outrider.outbox (id, stream, type) values (gen_random_uuid(), 'orders', 't') returning id"
  await env.postgres.query(`alter view outrider.outbox alter schema_version set default 1, alter headers set default '{}',
    alter created_at set default now(), alter bucket set default 0, alter txid set default pg_current_xact_id(), alter seq set default 0`)
  ids.push((await env.postgres.query(insert)).rows[0].id)
  await relay.is({ role: 'halted', reason: 'outbox_renamed' })
  await relay.stop()
  const next = await env.relay()
  await next.is({ role: 'halted', reason: 'outbox_renamed' })
  ids.push((await env.postgres.query(insert)).rows[0].id)
  await env.postgres.query('drop view outrider.outbox; alter table outrider.outbox_rows rename to outbox')
  await next.streaming()
  await published(env, ...ids)
})

test('a table that inherits from the outbox table is a gap until the inheritance ends, as the message says', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await env.postgres.query(`create table public.child () inherits (${TABLE})`)
  await add(env, 'public.child', 'in the child')
  await relay.is({ role: 'halted', reason: 'outbox_inherited' })
  await add(env, TABLE, 'meanwhile')
  const [incident] = await openIncidents(env)
  const refused = await close(env, incident!.id).catch((error: Error) => error.message)
  const [, statement] = /`(alter table [^`]+)`/.exec(String(refused))!
  await env.postgres.query(statement!)
  await close(env, incident!.id)
  await relay.streaming()
  await env.postgres.query(`insert into ${TABLE} select * from public.child`)
  await published(env, 'first', 'meanwhile', 'in the child')
})

test('rows of another table in the stream halt the relay with the slot before them, and are skipped only once that is decided', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await env.postgres.query(`create table public.other (like ${TABLE})`)
  // In one transaction, so that the row is met before the changed publication is.
  await env.postgres.query(`begin; alter publication outrider add table public.other;
    insert into public.other values ('foreign', 'orders', 't'); commit`)
  const { rows } = await env.postgres.query('select pg_current_wal_lsn()::text as lsn')
  await add(env, TABLE, 'behind')
  await until(async () => (await openIncidents(env)).length === 2)
  expect((await openIncidents(env)).map(({ reason }) => reason).sort()).toEqual([
    'outbox_foreign_rows',
    'publication_changed',
  ])
  const past = async () =>
    (
      await env.postgres.query(
        'select confirmed_flush_lsn >= $2 as past from pg_replication_slots where slot_name = $1',
        [env.slot, rows[0].lsn],
      )
    ).rows[0].past
  expect(await past()).toBe(false)
  expect(await env.ids('orders')).toEqual(['first'])
  for (const { id } of await openIncidents(env)) await close(env, id)
  await relay.streaming()
  await published(env, 'first', 'behind')
  await until(past)
})
