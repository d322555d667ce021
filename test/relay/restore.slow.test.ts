import { expect } from 'vitest'
import { adopt } from '../../src/cli/adopt.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { own } from '../support/own.js'
import { saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest } from './relay-env.js'
import { REPAIR, repaired, someEvents } from './repair-env.js'

// What docs/moving.md says of restores, step by step.
const test = relayTest.extend<{
  restorable: RelayEnv & Record<'backUpPostgres' | 'backUpRedis', () => Promise<() => Promise<void>>>
}>({
  restorable: async ({ createEnv, skip }, use) => {
    needsProcess({ skip })
    const original = own(await startPostgres())
    const server = own(await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } }))
    const env = await createEnv({ database: await original.createDatabase(), redis: server })
    await use({
      ...env,
      server,
      async backUpPostgres() {
        const data = await original.cloneData()
        return () => original.restore(data)
      },
      async backUpRedis() {
        const data = await server.cloneData()
        return () => server.restore(data)
      },
    })
  },
})

test('Postgres restored: the relay halts before it publishes, and adopt continues', async ({ restorable: env }) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  const restore = await env.backUpPostgres()
  // Further than what a server writes to its WAL just by starting.
  await env.postgres.query('create table filler as select gen_random_uuid() from generate_series(1, 20000)')
  ids.push(await env.insert('orders'))
  await until(async () => (await env.ids('orders')).length === ids.length)
  expect(await relay.stop()).toBe(0)
  await env.postgres.end()
  await restore()
  const after = await env.relay(REPAIR)
  await after.is({ role: 'halted', reason: 'wal_beyond' })
  expect(await env.ids('orders')).toEqual(ids)
  const config = { slot: env.slot, redis: { url: env.server.url, connectTimeout: 2_000 } }
  await runCommand(adopt, env.database.url, { config, answer: true })
  await after.streaming()
  const client = await env.database.connect()
  const { rows } = await client.query("select outrider.publish('orders', 'test.happened', '{}') as id")
  await until(async () => (await env.ids('orders')).length === ids.length + 1)
  expect(await env.ids('orders')).toEqual([...ids, rows[0].id])
  expect(await listIncidents(client)).toEqual([])
  await client.end()
})

test('Redis restored: the relay puts back what the backup lacks, without a command', async ({ restorable: env }) => {
  await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  const restore = await env.backUpRedis()
  for (let n = 0; n < 3; n++) ids.push(await env.insert('orders'))
  await saved(env, 1, ids.at(-1))
  await restore()
  await repaired(env)
  expect(await env.ids('orders')).toEqual(ids)
})

test('both restored, Redis from the older backup: the relay puts back what Postgres has, without a command', async ({
  restorable: env,
}) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  const restoreRedis = await env.backUpRedis()
  ids.push(await env.insert('orders'))
  await saved(env, 1, ids.at(-1))
  const restorePostgres = await env.backUpPostgres()
  await env.insert('orders')
  await until(async () => (await env.ids('orders')).length === ids.length + 1)
  expect(await relay.stop()).toBe(0)
  await env.postgres.end()
  await Promise.all([restoreRedis(), restorePostgres()])
  const after = await env.relay(REPAIR)
  await until(async () => (await env.ids('orders')).length === ids.length, { message: 'the event to be put back' })
  await after.streaming()
  const client = await env.database.connect()
  const { rows } = await client.query("select outrider.publish('orders', 'test.happened', '{}') as id")
  await until(async () => (await env.ids('orders')).length === ids.length + 1)
  expect(await env.ids('orders')).toEqual([...ids, rows[0].id])
  await client.end()
})
