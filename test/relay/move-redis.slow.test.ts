import pg from 'pg'
import { expect, onTestFinished } from 'vitest'
import { z } from 'zod'
import { moveRedis } from '../../src/cli/move-redis.js'
import { createConsumer } from '../../src/consumer/index.js'
import { defineEvent } from '../../src/index.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { type Redis, startRedis, until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { own } from '../support/own.js'
import { saved } from './redis-loss-env.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { REPAIR, repaired, someEvents } from './repair-env.js'

const Happened = defineEvent({ stream: 'orders', type: 'test.happened', version: 1, data: z.looseObject({}) })

const idsIn = async (server: Redis): Promise<string[]> => {
  const redis = server.client()
  const entries = await redis.xrange('orders', '-', '+')
  redis.disconnect()
  return entries.map(([, fields]) => fields[fields.indexOf('id') + 1] as string)
}

/** Permits the move as an operator does, who has the rights of the schema's owner. */
const permit = (env: RelayEnv, server: Redis, answer = true) =>
  runCommand(moveRedis, env.database.url, {
    config: { slot: env.slot, redis: { url: server.url, connectTimeout: 2_000 } },
    answer,
  })

/** Workers of one group, one after the other, each until there are so many effects. */
async function workers(env: RelayEnv) {
  const db = new pg.Pool({ connectionString: env.database.url, max: 5 })
  // The database is dropped before it is closed.
  db.on('error', () => {})
  onTestFinished(() => db.end())
  await db.query('create table effect (id uuid)')
  const effects = async () => (await db.query<{ id: string }>('select id from effect')).rows.map(({ id }) => id)
  const work = async (server: { url: string }, count: number) => {
    const consumer = createConsumer({ redis: server.url, db, group: 'billing' }).on(Happened, async (event, { tx }) => {
      await tx.query('insert into effect values ($1)', [event.id])
    })
    await consumer.start()
    await until(async () => (await effects()).length >= count, { message: `${count} effects` })
    await consumer.stop()
  }
  return { work, effects }
}

test('a planned move to an empty Redis: every event is there, in order, and has its effect once', async ({ env }) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  const { work, effects } = await workers(env)
  await work(env.server, ids.length)
  // No worker reads these from the old one.
  for (let n = 0; n < 3; n++) ids.push(await env.insert('orders'))
  await saved(env, 1, ids.at(-1))
  const next = own(await startRedis())
  const moved = { ...REPAIR, OUTRIDER_REDIS_URL: next.url }
  const { text } = await permit(env, next)
  expect(text).toContain('Events were published to 1 streams; this Redis has 0 of them.')
  // A rolling deployment: the new relay waits until the old one ends.
  const standby = await env.relay(moved)
  await standby.is({ role: 'standby' })
  ids.push(await env.insert('orders'))
  expect(await relay.stop()).toBe(0)
  await repaired(env)
  await standby.streaming()
  ids.push(await env.insert('orders'))
  await until(async () => (await idsIn(next)).length === ids.length)
  expect(await idsIn(next)).toEqual(ids)
  await work(next, ids.length)
  expect((await effects()).sort()).toEqual([...ids].sort())
})

test('an empty Redis at a new address: the relay halts before it writes, and continues once it is permitted', async ({
  env,
}) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  expect(await relay.stop()).toBe(0)
  const next = own(await startRedis())
  expect(await permit(env, next, false)).toMatchObject({
    code: 1,
    text: expect.stringContaining('Nothing was changed.'),
  })
  const moved = await env.relay({ ...REPAIR, OUTRIDER_REDIS_URL: next.url })
  await moved.is({ role: 'halted', reason: 'other_redis' })
  expect(await idsIn(next)).toEqual([])
  await permit(env, next)
  await repaired(env)
  expect(await idsIn(next)).toEqual(ids)
})

test('a move by replication: the relay continues in the streams of the replica, and has nothing to repair', async ({
  createEnv,
}) => {
  const server = own(await startRedis())
  const env = await createEnv({ redis: server })
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  const { work, effects } = await workers(env)
  await work(server, ids.length)
  ids.push(await env.insert('orders'))
  await saved(env, 1, ids.at(-1))
  const next = own(await startRedis({ replicaOf: server }))
  expect(await relay.stop()).toBe(0)
  await until(async () => (await idsIn(next)).length === ids.length)
  const admin = next.client()
  await admin.replicaof('NO', 'ONE')
  admin.disconnect()
  const { text } = await permit(env, next)
  expect(text).toContain('this Redis has 1 of them.\nThe relay continues in them')
  await env.streamingRelay({ ...REPAIR, OUTRIDER_REDIS_URL: next.url })
  ids.push(await env.insert('orders'))
  await until(async () => (await idsIn(next)).length === ids.length)
  await saved(env, 1, ids.at(-1))
  expect(await idsIn(next)).toEqual(ids)
  expect(await listIncidents(env.postgres, { closed: true })).toEqual([])
  await work(next, ids.length)
  expect((await effects()).sort()).toEqual([...ids].sort())
})

test('a mapped outbox is refused: its rows are not put back', async ({ env }) => {
  const config = {
    slot: env.slot,
    redis: { url: env.server.url, connectTimeout: 2_000 },
    outbox: { table: 'public.events' } as never,
  }
  await expect(runCommand(moveRedis, env.database.url, { config })).rejects.toThrow(
    "Expected the outbox to be Outrider's own table, found public.events",
  )
})
