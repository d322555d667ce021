import { expect } from 'vitest'
import { setup } from '../../src/cli/setup.js'
import { runCommand } from '../support/command.js'
import { add, mapped, mapping, openIncidents, published, running, TABLE, yaml } from './outbox-table-env.js'
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
