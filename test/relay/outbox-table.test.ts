import pg from 'pg'
import { expect } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { readMigrations } from '../../src/postgres/setup/migration.js'
import { runCheck } from '../check/run.js'
import { runCommand } from '../support/command.js'
import { add, close, mapped, mapping, openIncidents, published, running, TABLE, yaml } from './outbox-table-env.js'
import { saved } from './redis-loss-env.js'
import { relayTest as test } from './relay-env.js'
import { REPAIR } from './repair-env.js'

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

test('a relay of a mapped table says at its start that a gap is not repaired, and halts at one', async ({
  createEnv,
  configFile,
}) => {
  const env = await createEnv(mapped)
  const relay = await running(env, await configFile(yaml()), REPAIR)
  const [line] = await relay.logged(({ msg }) => /^gaps of a mapped table are not repaired/.test(msg))
  expect(line).toMatchObject({ level: 'info', table: TABLE })
  await saved(env, 1)
  await env.redis.flushall()
  await relay.is({ role: 'halted', reason: 'stream_behind' })
})

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

test('a table that had another name when a version that compares names was replaced, and has its name again, is a gap until it is closed', async ({
  createEnv,
  configFile,
}) => {
  const config = { outbox: mapping() }
  const env = await createEnv({
    ...mapped,
    // As a version before migration 005 has set it up, and this one after it.
    setup: async ({ OUTRIDER_POSTGRES_URL: url, OUTRIDER_SLOT: slot }) => {
      const client = new pg.Client(url)
      await client.connect()
      await migrate(client, { migrations: (await readMigrations()).filter(({ version }) => version < 5) })
      await client.query(
        `create publication outrider for table ${TABLE} with (publish = 'insert', publish_via_partition_root = true)`,
      )
      await client.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
      await client.query(
        `insert into outrider.lineage (slot, publication, source, outbox_table, system_id, timeline, confirmed_lsn, publication_state)
         select slot_name, 'outrider', '/shop', $2, (select system_identifier::text from pg_control_system()), 1,
           confirmed_flush_lsn, outrider.publication_state('outrider')
         from pg_replication_slots where slot_name = $1`,
        [slot, TABLE],
      )
      await client.query(`alter table ${TABLE} rename to events`)
      await expect(runCommand(setup, url!, { config: { slot: slot!, ...config } })).rejects.toThrow(
        'found nothing of this name',
      )
      await client.query(`alter table public.events rename to outboxevent`)
      expect((await runCommand(setup, url!, { config: { slot: slot!, ...config } })).code).toBe(0)
      await client.end()
    },
  })
  const look = async () =>
    (await runCheck(env.database.url, env.server.url, { slot: env.slot, ...config })).findings
      .filter(({ level, server }) => level === 'blocker' && server === 'postgres')
      .map(({ id }) => id)
  expect(await look()).toContain('outbox-renamed')
  const relay = await env.relay({ OUTRIDER_CONFIG: await configFile(yaml()) })
  await relay.is({ role: 'halted', reason: 'outbox_renamed' })
  const [incident, ...others] = await openIncidents(env)
  expect([incident?.kind, incident?.reason, others]).toEqual(['gap', 'outbox_renamed', []])
  const advice = `To continue: \`outrider incidents close ${incident!.id}\`: accepts that an earlier version may have skipped rows.`
  expect((await relay.status())?.message).toContain(advice)
  await add(env, TABLE, 'halted')
  expect(await env.ids('orders')).toEqual([])

  await close(env, incident!.id)
  await relay.streaming()
  await published(env, 'halted')
  expect(await look()).not.toContain('outbox-renamed')
})
