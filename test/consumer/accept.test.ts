import { drizzle } from 'drizzle-orm/node-postgres'
import createKnex from 'knex'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { DataSource } from 'typeorm'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { accept, createConsumer } from '../../src/consumer/index.js'
import { type Transaction, TransactionError } from '../../src/index.js'
import { Happened } from './happened.js'
import { createInboxEnv, type InboxEnv } from './inbox-env.js'

let env: InboxEnv
let pool: pg.Pool
let kysely: Kysely<object>

beforeAll(async () => {
  env = await createInboxEnv()
  pool = new pg.Pool({ connectionString: env.workerUrl, max: 5 })
  kysely = new Kysely({ dialect: new PostgresDialect({ pool }) })
})

afterAll(async () => {
  await pool?.end()
  await env?.close()
})

/** Runs the body in a transaction, and rolls back where it throws. */
const ways: Record<string, <T>(body: (tx: Transaction) => Promise<T>) => Promise<T>> = {
  'a client of pg': async (body) => {
    const client = await pool.connect()
    try {
      await client.query('begin')
      const result = await body(client)
      await client.query('commit')
      return result
    } catch (error) {
      await client.query('rollback')
      throw error
    } finally {
      client.release()
    }
  },
  'a transaction of Drizzle': (body) => drizzle(pool).transaction(body),
  'a transaction of Kysely': (body) => kysely.transaction().execute(body),
  'what runs a statement and returns its rows': (body) =>
    drizzle(pool).transaction((tx) => {
      const { client } = (tx as unknown as { session: { client: pg.PoolClient } }).session
      return body({ query: async (text, values) => (await client.query(text, values)).rows })
    }),
}

it.each(Object.entries(ways))('in %s: true once it is committed, then false', async (_name, inTransaction) => {
  const event = { group: 'billing', source: '/shop', id: crypto.randomUUID() }
  const rolledBack = inTransaction(async (tx) => {
    expect(await accept(tx, event)).toBe(true)
    throw new Error('changed my mind')
  })
  await expect(rolledBack).rejects.toThrow('changed my mind')
  expect(await inTransaction((tx) => accept(tx, event))).toBe(true)
  expect(await inTransaction((tx) => accept(tx, event))).toBe(false)
  expect(await inTransaction((tx) => accept(tx, { ...event, group: 'mailing' }))).toBe(true)
  expect(await inTransaction((tx) => accept(tx, { ...event, source: '/other' }))).toBe(true)
})

it('refuses what is no open transaction, and accepts nothing', async () => {
  const event = { group: 'refused', source: '/shop', id: 'e-1' }
  const client = await pool.connect()
  await client.query('begin')
  await client.query('commit')
  for (const tx of [pool, drizzle(pool), kysely, client, undefined]) {
    await expect(accept(tx as never, event)).rejects.toThrow(TransactionError)
  }
  client.release()
  expect(await env.database.query("select id from outrider.inbox where consumer_group = 'refused'")).toEqual([])
})

it('refuses an event without a group, a source or an id', async () => {
  const event = { group: 'billing', source: '/shop', id: 'e-1' }
  await ways['a client of pg']!(async (tx) => {
    await expect(accept(tx, { ...event, group: '' })).rejects.toThrow("Expected accept's group as a text that is not")
    await expect(accept(tx, { ...event, source: undefined as never })).rejects.toThrow(/source .* found undefined/)
    await expect(accept(tx, { ...event, id: 42 as never })).rejects.toThrow(/id .* found 42/)
  })
})

it('says so where a query returns neither rows nor { rows }', async () => {
  const message = 'Expected query(tx, text, values) to return the rows of the statement, or { rows }, found neither.'
  const event = { group: 'billing', source: '/shop', id: 'e-1' }
  for (const found of [undefined, 1, { rowCount: 1 }, { rows: 1 }]) {
    await expect(accept({ query: async () => found }, event)).rejects.toThrow(message)
    const db = { transaction: (run: never) => kysely.transaction().execute(run), query: async () => found }
    const consumer = createConsumer({ redis: 'redis://127.0.0.1:1', group: 'billing', db: db as never })
    consumer.on(Happened, () => {})
    await expect(consumer.deliver(Happened, { data: { n: 1 } })).rejects.toThrow(message)
  }
})

it('refuses as db what is neither a pool nor an adapter, before anything is asked of it', async () => {
  const client = new pg.Client()
  const knex = createKnex({ client: 'pg' })
  const dataSource = new DataSource({ type: 'postgres' })
  const databases = [client, drizzle(pool), kysely, kysely.transaction(), knex, dataSource, dataSource.manager]
  for (const db of [...databases, 'postgres://localhost', undefined, null, {}]) {
    const make = () => createConsumer({ redis: 'redis://127.0.0.1:1', group: 'billing', db: db as never })
    expect(make, String(db)).toThrow(/Expected db to be a Pool of pg, or \{ transaction\(run\), query/)
  }
})

it('takes nothing for done where an adapter does not pass on what it ran, or did not run it', async () => {
  const swallowed = (run: (tx: Transaction) => Promise<unknown>) =>
    kysely.transaction().execute(async (trx) => void (await run(trx)))
  for (const transaction of [swallowed, async () => {}]) {
    const db = { transaction }
    const consumer = createConsumer({ redis: 'redis://127.0.0.1:1', group: 'billing', db: db as never })
    consumer.on(Happened, () => {})
    await expect(consumer.deliver(Happened, { data: { n: 1 } })).rejects.toThrow(
      /Expected transaction\(run\) to resolve to what run resolves to/,
    )
  }
})
