import { expect } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { until } from '../../testkit/services/index.js'
import { runCheck } from '../check/run.js'
import { runCommand } from '../support/command.js'
import {
  add,
  close,
  mapped,
  mapping,
  openIncidents,
  published,
  running,
  swapped,
  TABLE,
  yaml,
} from './outbox-table-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

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

test('a table that is swapped for another, and the publication with it: the rows of both are published', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const { relay, id } = await swapped(env, await configFile(yaml()))
  // A transaction that is open meanwhile: what it wrote before would not be published, and is not in the table yet.
  const writer = await env.database.connect()
  await writer.query(`begin; insert into ${TABLE} values ('before', 'orders', 't')`)
  const refusal = String(await close(env, id).catch((error: unknown) => error))
  const [, statements = ''] = /from now on: `([^`]+)`/.exec(refusal) ?? []
  const altering = env.postgres.query(statements).then(() => 'altered')
  const waits = `select from pg_locks
    where relation = '${TABLE}'::regclass and mode = 'ShareRowExclusiveLock' and not granted`
  const isWaiting = async () => ((await writer.query(waits)).rowCount === 1 ? 'waiting' : undefined)
  expect(await Promise.race([altering, until(isWaiting)])).toBe('waiting')
  await writer.query('commit')
  await writer.end()
  await altering
  await until(async () => (await openIncidents(env)).length === 2)
  const [, changed] = await openIncidents(env)
  expect(changed?.reason).toBe('publication_changed')
  await close(env, id)
  await close(env, changed!.id)
  await relay.streaming()
  const { rows } = await env.postgres.query<{ id: string }>(`delete from ${TABLE} returning id`)
  expect(rows.map((row) => row.id)).toEqual(['unseen', 'before'])
  await add(env, TABLE, 'unseen', 'before')
  await published(env, 'first', 'behind', 'unseen', 'before')
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

/** As an earlier version has set up a table with a child: the publication names both. The rows of both wait in WAL. */
async function inheritedSince(env: RelayEnv): Promise<void> {
  await env.postgres.query(`begin; create table public.child () inherits (${TABLE});
    alter publication outrider add table public.child;
    update outrider.lineage set publication_state = outrider.publication_state(publication); commit`)
  await add(env, TABLE, 'before')
  await add(env, 'public.child', 'in the child')
  await add(env, TABLE, 'behind')
}

const setUpAgain = (env: RelayEnv) =>
  runCommand(setup, env.database.url, { config: { slot: env.slot, outbox: mapping() } })

/** What a message names to be run in SQL. */
const statements = (message: string): string[] =>
  [...message.matchAll(/`(alter [^`]+)`/g)].map(([, statement]) => statement as string)

/** The rows of the child that wait in WAL are a gap of their own; once it is closed, everything else flows. */
async function ledOn(env: RelayEnv, relay: RelayProcess): Promise<void> {
  await relay.is({ role: 'halted', reason: 'outbox_foreign_rows' })
  const [foreign, ...others] = await openIncidents(env)
  expect(others).toEqual([])
  await close(env, foreign!.id)
  await relay.streaming()
  await env.postgres.query(`insert into ${TABLE} select * from public.child`)
  await published(env, 'first', 'before', 'behind', 'in the child')
  // Nothing that is left of the child is in the way, and its rows halt nothing.
  expect((await setUpAgain(env)).code).toBe(0)
  const { findings } = await runCheck(env.database.url, env.server.url, { slot: env.slot, outbox: mapping() })
  expect(findings.filter(({ level, server }) => level === 'blocker' && server === 'postgres')).toEqual([])
  await add(env, 'public.child', 'no event any more')
  await add(env, TABLE, 'last')
  await published(env, 'first', 'before', 'behind', 'in the child', 'last')
  expect(await openIncidents(env)).toEqual([])
}

test('a child that was there at the first setup, and is in the publication: the advice of the gap leads on', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await relay.stop()
  await inheritedSince(env)
  const next = await env.relay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await next.is({ role: 'halted', reason: 'outbox_inherited' })
  const [incident, ...others] = await openIncidents(env)
  expect(others).toEqual([])
  const steps = statements((await next.status())!.message!)
  expect(steps).toHaveLength(1)
  await env.postgres.query(steps[0]!)
  await close(env, incident!.id)
  await ledOn(env, next)
})

test('a child that was there at the first setup, and is in the publication: the refusals of another setup lead on', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await relay.stop()
  await inheritedSince(env)
  for (const expected of ['inherits from it', 'publishes public.child']) {
    const message = await setUpAgain(env).then(String, (error: Error) => error.message)
    expect(message).toContain(expected)
    await env.postgres.query(statements(message)[0]!)
  }
  expect((await setUpAgain(env)).code).toBe(0)
  const next = await env.relay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await next.is({ role: 'halted', reason: 'publication_changed' })
  const [changed] = await openIncidents(env)
  await close(env, changed!.id)
  await ledOn(env, next)
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

test('a table that became a partition of its replacement: detached before the unseen rows are inserted again, no row is published twice', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await env.postgres.query(`begin; alter table ${TABLE} rename to outboxevent_old;
    create table ${TABLE} (like public.outboxevent_old) partition by list (stream);
    alter table ${TABLE} attach partition public.outboxevent_old for values in ('orders');
    create table public.rest partition of ${TABLE} default; commit`)
  await add(env, TABLE, 'seen')
  await env.postgres.query(`insert into ${TABLE} values ('unseen', 'invoices', 't')`)
  await relay.is({ role: 'halted', reason: 'outbox_replaced' })
  const [incident] = await openIncidents(env)
  // As the manual says.
  await env.postgres.query(`begin; alter table ${TABLE} rename to outboxevent_unseen;
    alter table public.outboxevent_old rename to outboxevent;
    alter table public.outboxevent_unseen detach partition ${TABLE};
    insert into ${TABLE} select * from public.outboxevent_unseen; commit`)
  await close(env, incident!.id)
  await relay.streaming()
  await until(async () => expect(await env.ids('invoices')).toEqual(['unseen']) ?? true)
  await published(env, 'first', 'seen')
})

test('a schema that is renamed halts the relay, and renamed back as the message says it loses no row', async ({
  env,
}) => {
  const relay = await env.streamingRelay()
  const ids = [await env.insert('orders')]
  await env.postgres.query('alter schema outrider rename to archive')
  const insert = "insert into archive.outbox (id, stream, type) values (gen_random_uuid(), 'orders', 't') returning id"
  // Its defaults call functions by oid.
  ids.push((await env.postgres.query(insert)).rows[0].id)
  await relay.is({ role: 'halted', reason: 'schema_renamed' })
  const { message } = (await relay.status())!
  expect(message).not.toContain('outrider setup')
  await env.postgres.query(/`(alter schema [^`]+)`/.exec(String(message))![1]!)
  await relay.streaming()
  await published(env, ...ids)
})

test('a table that is dropped while another takes its name is a gap that stays open until the publication publishes the other', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await env.postgres.query(`begin;
    create table public.outboxevent_new (like ${TABLE} including all);
    drop table ${TABLE};
    alter table public.outboxevent_new rename to outboxevent;
    commit`)
  await add(env, TABLE, 'unseen')
  await relay.is({ role: 'halted', reason: 'publication_changed' })
  const [incident, ...others] = await openIncidents(env)
  expect([incident?.kind, incident?.reason, others]).toEqual(['gap', 'publication_changed', []])

  const refused = await close(env, incident!.id).catch((error: Error) => error.message)
  const [, statement] = /`(begin; drop publication [^`]+)`/.exec(String(refused)) ?? []
  expect(statement, String(refused)).toBeDefined()
  await env.postgres.query(statement!)
  await close(env, incident!.id)
  await relay.streaming()
  await env.postgres.query(`delete from ${TABLE}`)
  await add(env, TABLE, 'unseen', 'last')
  await published(env, 'first', 'unseen', 'last')
})

test('a mapping that was edited after setup halts the relay, for an unfit column in the words of setup, and no row becomes an incident', async ({
  createEnv,
  configFile,
}) => {
  const create = `create table ${TABLE} (id text primary key, stream text, type text, raw bytea, made text generated always as ('m') stored)`
  const env = await createEnv({ outbox: { table: TABLE, create } })
  await env.postgres.query(`insert into ${TABLE} (id, stream, type, raw) values ('waits', 'orders', 't', '\\x7b7d')`)
  for (const [columns, reason] of [
    [{ data: 'raw' }, 'setup_differs'],
    [{ subject: 'made' }, 'setup_differs'],
    // The rows in WAL say which columns they have.
    [{ subject: 'nothing' }, 'column_missing'],
  ] as const) {
    const outbox = { ...mapping(), columns: { ...mapping().columns, ...columns } }
    const config = { slot: env.slot, outbox }
    const refused = await runCommand(setup, env.database.url, { config }).catch((error: Error) => error.message)
    expect(refused).toContain('Map another column')
    const relay = await env.relay({ OUTRIDER_CONFIG: await configFile(JSON.stringify({ outbox })) })
    await relay.is({ role: 'halted', reason })
    if (reason === 'setup_differs') expect((await relay.status())?.message).toBe(refused)
    await relay.stop()
  }
  expect(await openIncidents(env)).toEqual([])
  await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await published(env, 'waits')
})

test('a partition that becomes unlogged halts the relay while it runs and at its start; logged again, with its unseen rows inserted again, it loses none', async ({
  env,
}) => {
  const { rows: partitions } = await env.postgres.query(
    "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'outrider.outbox'::regclass order by 1",
  )
  const setEach = (how: string) =>
    env.postgres.query(partitions.map(({ name }) => `alter table ${name} set ${how}`).join(';'))
  const relay = await env.streamingRelay()
  const first = await env.insert('orders')
  await setEach('unlogged')
  const unseen = await env.insert('orders')
  await relay.is({ role: 'halted', reason: 'outbox_unlogged' })
  await relay.stop()
  await env.postgres.query("update outrider.incident set closed_at = now(), closed_by = 'test'")
  const next = await env.relay()
  await next.is({ role: 'halted', reason: 'outbox_unlogged' })
  const [incident, ...others] = await openIncidents(env)
  expect(others).toEqual([])

  await expect(close(env, incident!.id)).rejects.toThrow('`alter table "outrider"."outbox_0" set logged;')
  await setEach('logged')
  await close(env, incident!.id)
  await next.streaming()
  // As the manual says.
  await env.postgres.query(
    `with unseen as (delete from outrider.outbox where id = any ($1) returning *)
     insert into outrider.outbox (id, stream, type, subject, data, schema_version, correlation_id, causation_id, headers, created_at)
     select id, stream, type, subject, data, schema_version, correlation_id, causation_id, headers, created_at
     from unseen order by seq`,
    [[unseen]],
  )
  await published(env, first, unseen)
})

test('a publication that leaves rows out is a gap, also where that was accepted before, until it is whole again', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()))
  await relay.stop()
  const accept = 'update outrider.lineage set publication_state = outrider.publication_state(publication)'
  await env.postgres.query(`alter publication outrider set table ${TABLE} where (id <> id); ${accept}`)
  const next = await env.relay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await next.is({ role: 'halted', reason: 'publication_changed' })
  const [incident] = await openIncidents(env)
  await expect(close(env, incident!.id)).rejects.toThrow('leaves out rows or columns of it')
  await env.postgres.query(`alter publication outrider set table ${TABLE}`)
  await close(env, incident!.id)
  await next.streaming()
  await add(env, TABLE, 'last')
  await published(env, 'first', 'last')
  await next.stop()

  // Every column that is mapped.
  await env.postgres.query(`alter publication outrider set table ${TABLE} (id, stream, type); ${accept}`)
  await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml()) })
})
