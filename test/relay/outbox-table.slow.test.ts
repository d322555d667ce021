import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { add, close, mapped, openIncidents, published, running, swapped, TABLE, yaml } from './outbox-table-env.js'
import { relayTest as test } from './relay-env.js'

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
