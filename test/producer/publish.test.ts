import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, json, pgSchema, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import createKnex, { type Knex } from 'knex'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { DataSource } from 'typeorm'
import * as v from 'valibot'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import {
  defineEvent,
  EventError,
  type OutboxRow,
  publish,
  type Transaction,
  TransactionError,
  toRow,
} from '../../src/index.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { createDatabase, type Database } from '../../testkit/services/index.js'

const OrderPlaced = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 2,
  data: z.object({ total: z.number() }),
})
const Anything = defineEvent({ stream: 'things', type: 'thing', version: 1, data: z.unknown(), maxBytes: '32MiB' })

const outbox = pgSchema('outrider').table('outbox', {
  id: uuid().notNull(),
  stream: text().notNull(),
  type: text().notNull(),
  subject: text(),
  data: json(),
  schema_version: integer().notNull(),
  correlation_id: text(),
  causation_id: text(),
  headers: json().notNull(),
  created_at: timestamp({ withTimezone: true }).$type<Date>().default(new Date(0)),
})

let database: Database
let pool: pg.Pool
let kysely: Kysely<{ 'outrider.outbox': OutboxRow }>
let knex: Knex
let dataSource: DataSource

beforeAll(async () => {
  database = await createDatabase()
  const owner = await database.connect()
  await migrate(owner)
  // A role belongs to the whole cluster, so its name is this database's.
  await owner.query(`create role ${database.name} login in role outrider_writer`)
  await owner.end()
  pool = new pg.Pool({ connectionString: database.urlAs({ user: database.name }) })
  kysely = new Kysely({ dialect: new PostgresDialect({ pool }) })
  const url = database.urlAs({ user: database.name })
  knex = createKnex({ client: 'pg', connection: url })
  dataSource = await new DataSource({ type: 'postgres', url }).initialize()
})

afterAll(async () => {
  await dataSource?.destroy()
  await knex?.destroy()
  await pool?.end()
  await database?.drop()
  await database?.server.query(`drop role if exists ${database.name}`)
})

beforeEach(async () => {
  await database.query('truncate outrider.outbox')
})

interface Stored {
  id: string
  stream: string
  type: string
  subject: string | null
  data: string | null
  schema_version: number
  correlation_id: string | null
  causation_id: string | null
  headers: string
  created_at: Date
}

const stored = (): Promise<Stored[]> =>
  database.query<Stored & pg.QueryResultRow>(
    `select id, stream, type, subject, data::text, schema_version, correlation_id, causation_id, headers::text, created_at
     from outrider.outbox order by seq`,
  )

/** Every way to a transaction: runs the body in one, and rolls back where it throws. */
const ways: Record<string, (body: (tx: Transaction) => Promise<void>) => Promise<void>> = {
  'a pg client': async (body) => {
    const client = await pool.connect()
    try {
      await client.query('begin')
      await body(client)
      await client.query('commit')
    } catch (error) {
      await client.query('rollback')
      throw error
    } finally {
      client.release()
    }
  },
  'a Drizzle transaction': (body) => drizzle(pool).transaction(body),
  'a nested Drizzle transaction': (body) => drizzle(pool).transaction((tx) => tx.transaction(body)),
  'a Kysely transaction': (body) => kysely.transaction().execute(body),
  'a controlled Kysely transaction': async (body) => {
    const trx = await kysely.startTransaction().execute()
    try {
      await body(trx)
      await trx.commit().execute()
    } catch (error) {
      await trx.rollback().execute()
      throw error
    }
  },
  'a Knex transaction': (body) => knex.transaction(body),
  'a TypeORM transaction': (body) => dataSource.transaction(body),
  'a transaction of a TypeORM QueryRunner': async (body) => {
    const runner = dataSource.createQueryRunner()
    try {
      await runner.startTransaction()
      await body(runner)
      await runner.commitTransaction()
    } catch (error) {
      await runner.rollbackTransaction()
      throw error
    } finally {
      await runner.release()
    }
  },
  'an adapter for another library': (body) =>
    ways['a pg client']!((tx) => {
      const client = tx as pg.PoolClient
      return body({ query: (text, values) => client.query({ text, values }) })
    }),
}

/** Knex sends a statement some turns later, which is after the COMMIT of a transaction that does not wait for it. */
const SENDS_LATE = new Set(['a Knex transaction'])

describe.each(Object.entries(ways))('publish in %s', (name, inTransaction) => {
  it('stores the event with everything it carries, as a writer without any other right', async () => {
    const time = new Date('2026-01-02T03:04:05.678Z')
    let id: string | undefined
    await inTransaction(async (tx) => {
      id = await publish(tx, OrderPlaced, {
        subject: 'order-42',
        data: { total: 99 },
        correlationId: 'c-1',
        causationId: 'c-2',
        headers: { traceparent: '00-ab', tenant: 'ü' },
        time,
      })
    })
    expect(await stored()).toEqual([
      {
        id,
        stream: 'orders',
        type: 'order.placed',
        subject: 'order-42',
        data: '{"total":99}',
        schema_version: 2,
        correlation_id: 'c-1',
        causation_id: 'c-2',
        headers: '{"traceparent":"00-ab","tenant":"ü"}',
        created_at: time,
      },
    ])
  })

  it('stores nothing where the transaction rolls back', async () => {
    const transaction = inTransaction(async (tx) => {
      await publish(tx, OrderPlaced, { data: { total: 1 } })
      throw new Error('changed my mind')
    })
    await expect(transaction).rejects.toThrow('changed my mind')
    expect(await stored()).toEqual([])
  })

  it('stores an array in its order, and returns the ids in the same', async () => {
    let ids: string[] = []
    await inTransaction(async (tx) => {
      ids = await publish(
        tx,
        OrderPlaced,
        Array.from({ length: 100 }, (_, total) => ({ data: { total } })),
      )
    })
    const rows = await stored()
    expect(rows.map((row) => row.data)).toEqual(Array.from({ length: 100 }, (_, total) => `{"total":${total}}`))
    expect(rows.map((row) => row.id)).toEqual(ids)
    expect(ids).toEqual([...ids].sort())
  })

  it('that is not awaited shares the fate of the transaction, or rejects where the library sends it too late', async () => {
    const forgotten: Promise<string>[] = []
    const forget = async (tx: Transaction, total: number) => {
      const id = publish(tx, OrderPlaced, { data: { total } })
      id.catch(() => {})
      forgotten.push(id)
    }
    await inTransaction((tx) => forget(tx, 1))
    const rolledBack = inTransaction(async (tx) => {
      await forget(tx, 2)
      throw new Error('changed my mind')
    })
    await expect(rolledBack).rejects.toThrow('changed my mind')
    const settled = await Promise.allSettled(forgotten)
    if (!SENDS_LATE.has(name)) expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled'])
    const committed = settled[0]?.status === 'fulfilled' ? ['{"total":1}'] : []
    expect((await stored()).map((row) => row.data)).toEqual(committed)
  })

  it('leaves the transaction usable after refusing an event', async () => {
    await inTransaction(async (tx) => {
      await expect(publish(tx, OrderPlaced, { data: { total: '1' } } as never)).rejects.toThrow(EventError)
      await publish(tx, OrderPlaced, { data: { total: 2 } })
    })
    expect((await stored()).map((row) => row.data)).toEqual(['{"total":2}'])
  })
})

describe('publish', () => {
  const inTransaction = ways['a pg client']!

  it('makes one INSERT of 5,000 events, in order', async () => {
    const inputs = Array.from({ length: 5000 }, (_, total) => ({ subject: `order-${total % 7}`, data: { total } }))
    let statements = 0
    await inTransaction(async (tx) => {
      const client = tx as pg.PoolClient
      const counting = {
        query: (text: string, values: string[]) => {
          statements++
          return client.query(text, values)
        },
      }
      expect(new Set(await publish(counting, OrderPlaced, inputs)).size).toBe(5000)
      expect(await publish(counting, OrderPlaced, [])).toEqual([])
    })
    expect(statements).toBe(1)
    expect((await stored()).map((row) => JSON.parse(row.data!).total)).toEqual(inputs.map((input) => input.data.total))
  })

  it('keeps every payload byte for byte as JSON.stringify wrote it', async () => {
    const payloads = [
      { 'ключ "q" \\': 'ü€🐎\u2028\u0000\u0007\ud800\t', empty: {}, list: [[], ''] },
      '{"looks":"like json"}',
      '{a,b}',
      ['array', null, -0.5, 1e300, true],
      [],
      0,
      false,
      null,
      'x'.repeat(3_000_000),
    ]
    await inTransaction(async (tx) => {
      await publish(
        tx,
        Anything,
        payloads.map((data) => ({ data })),
      )
      for (const data of payloads) await publish(tx, Anything, { data })
      await publish(tx, Anything, {})
    })
    const texts = payloads.map((data) => JSON.stringify(data))
    expect((await stored()).map((row) => row.data)).toEqual([...texts, ...texts, null])
  })

  it('takes the time from Postgres’ clock where none is given', async () => {
    await inTransaction(async (tx) => {
      await publish(tx, OrderPlaced, { data: { total: 1 } })
    })
    const [row] = await database.query<{ age: number }>(
      'select extract(epoch from clock_timestamp() - created_at)::float8 as age from outrider.outbox',
    )
    expect(row!.age).toBeGreaterThan(0)
    expect(row!.age).toBeLessThan(60)
  })

  it('waits for a schema that validates asynchronously', async () => {
    const event = defineEvent({
      stream: 'orders',
      type: 'order.placed',
      version: 1,
      data: v.pipeAsync(
        v.string(),
        v.checkAsync(async (text) => text !== 'taken', 'is taken'),
      ),
    })
    await inTransaction(async (tx) => {
      await publish(tx, event, { data: 'free' })
      const refused = publish(tx, event, [{ data: 'free' }, { data: 'taken' }, { data: 'free', subject: '' }])
      await expect(refused).rejects.toThrow(/at index 1 of the array.*data: is taken/)
    })
    expect((await stored()).map((row) => row.data)).toEqual(['"free"'])
  })

  it('refuses to send more than 64 MiB in one statement', async () => {
    const data = 'x'.repeat(22_000_000)
    await inTransaction(async (tx) => {
      const refused = publish(tx, Anything, [{ data }, { data }, { data }, { data }])
      await expect(refused).rejects.toThrow(/Expected at most 67108864 bytes in all, found 88\d+\. .*in parts/)
    })
  })

  it('refuses what is no open transaction, and sends nothing', async () => {
    const input = { data: { total: 1 } }
    const client = await pool.connect()
    const runner = dataSource.createQueryRunner()
    await runner.connect()
    const ended = await knex.transaction()
    await ended.commit()
    const outside: [unknown, string][] = [
      [pool, 'found a pool'],
      [drizzle(pool), 'found a Drizzle database'],
      [kysely, 'found a Kysely database'],
      [client, 'found a client outside a transaction'],
      [knex, 'found a Knex instance'],
      [ended, 'found a Knex transaction that has ended'],
      [dataSource, 'found a TypeORM DataSource'],
      [dataSource.manager, 'an EntityManager outside a transaction'],
      [runner, 'found a TypeORM QueryRunner outside a transaction'],
    ]
    for (const [tx, found] of outside) {
      const refused = publish(tx as never, OrderPlaced, input)
      await expect(refused).rejects.toThrow(TransactionError)
      await expect(refused).rejects.toThrow(found)
    }
    await runner.release()
    await client.query('begin')
    await client.query('commit')
    await expect(publish(client, OrderPlaced, input)).rejects.toThrow(/client outside a transaction.*BEGIN/)
    client.release()
    expect(await stored()).toEqual([])
  })
})

describe('toRow', () => {
  const inputs = [{ list: ['ü', null] }, ['an', 'array'], 'text', null, 7].map((data) => ({
    subject: 's-1',
    data,
    headers: { tenant: 'a' },
    time: new Date(0),
  }))
  const texts = inputs.map((input) => JSON.stringify(input.data))

  it.each<[string, () => Promise<unknown>]>([
    [
      'Drizzle',
      () =>
        drizzle(pool)
          .insert(outbox)
          .values(inputs.map((input) => toRow(Anything, input))),
    ],
    [
      'Kysely',
      () =>
        kysely
          .insertInto('outrider.outbox')
          .values(inputs.map((input) => toRow(Anything, input)))
          .execute(),
    ],
    [
      'pg',
      async () => {
        for (const row of inputs.map((input) => toRow(Anything, input))) {
          const names = Object.keys(row)
          const marks = names.map((_, index) => `$${index + 1}`)
          await pool.query(`insert into outrider.outbox (${names}) values (${marks})`, Object.values(row))
        }
      },
    ],
  ])('fits the own insert of %s, whatever the payload', async (_library, insert) => {
    await insert()
    const rows = await stored()
    expect(rows.map((row) => row.data)).toEqual(texts)
    expect(rows[0]).toMatchObject({ subject: 's-1', headers: '{"tenant":"a"}', created_at: new Date(0) })
  })
})

it('stores by the same rules as the table: what publish takes at its limits, the constraints take', async () => {
  const headers = Object.fromEntries(Array.from({ length: 32 }, (_, index) => [`h${index}`, '€'.repeat(81)]))
  const event = defineEvent({
    stream: `o${'._-9'.repeat(50).slice(0, 199)}`,
    type: '🐎'.repeat(255),
    version: 2 ** 31 - 1,
    data: z.undefined(),
  })
  const edge = { subject: '🐎'.repeat(1024), correlationId: '€'.repeat(255), causationId: '\n'.repeat(255), headers }
  const times = [new Date('0001-01-01T00:00:00Z'), new Date('9999-12-31T23:59:59.999Z')]
  await ways['a pg client']!(async (tx) => {
    await publish(
      tx,
      event,
      times.map((time) => ({ ...edge, time })),
    )
  })
  expect((await stored()).map((row) => row.created_at)).toEqual(times)
})
