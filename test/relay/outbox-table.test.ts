import { expect } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { runCommand } from '../support/command.js'
import { add, close, mapped, mapping, openIncidents, published, running, TABLE, yaml } from './outbox-table-env.js'
import { relayTest as test } from './relay-env.js'

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

test('a partition that becomes unlogged halts the relay while it runs and at its start; logged again, with its unseen rows inserted again, it loses none', async ({
  env,
}) => {
  const setEach = (how: string) =>
    env.postgres.query([0, 1, 2, 3, 4, 5, 6, 7].map((i) => `alter table outrider.outbox_${i} set ${how}`).join(';'))
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
