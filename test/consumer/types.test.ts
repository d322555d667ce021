import type { NodePgDatabase } from 'drizzle-orm/node-postgres'
import type { Redis } from 'ioredis'
import type { Knex } from 'knex'
import type { Kysely, Transaction as KyselyTx } from 'kysely'
import type pg from 'pg'
import type { DataSource, EntityManager } from 'typeorm'
import * as v from 'valibot'
import { expectTypeOf, it } from 'vitest'
import { z } from 'zod'
import {
  accept,
  type Consumer,
  type ConsumerEvent,
  type ConsumerOptions,
  createConsumer,
  type DatabaseAdapter,
  type Delivered,
  type EventOf,
  type Handler,
  type HandlerContext,
  type WorkContext,
} from '../../src/consumer/index.js'
import { defineEvent, type Transaction } from '../../src/index.js'

const PlacedV1 = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 1,
  data: z.object({ total: z.string().transform(Number), note: z.string().default('') }),
})
const PlacedV2 = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 2,
  data: z.object({ cents: z.number() }),
})
const Opened = defineEvent({ stream: 'shops', type: 'shop.opened', version: 1, data: v.object({ name: v.string() }) })
const Ping = defineEvent({ stream: 'pings', type: 'ping', version: 1, data: z.undefined() })

interface Tables {
  invoice: { id: string }
}
type Drizzle = NodePgDatabase
type DrizzleTx = Parameters<Parameters<Drizzle['transaction']>[0]>[0]

/** Compiled, never run. */
const compiled = (
  _: (given: {
    consumer: Consumer<pg.PoolClient>
    pool: pg.Pool
    drizzle: Drizzle
    kysely: Kysely<Tables>
    at: Omit<ConsumerOptions, 'db' | 'wrap'>
  }) => unknown,
) => {}

it('infers event.data from the definition: the output of its schema', () => {
  expectTypeOf<EventOf<typeof PlacedV1>>().toEqualTypeOf<
    ConsumerEvent<{ total: number; note: string }, 'order.placed', 1>
  >()
  expectTypeOf<EventOf<typeof Ping>['data']>().toEqualTypeOf<undefined>()
  compiled(({ consumer }) => [
    consumer.on(Opened, async (event, { attempt, signal }) => {
      expectTypeOf(event.data).toEqualTypeOf<{ name: string }>()
      expectTypeOf(event.type).toEqualTypeOf<'shop.opened'>()
      expectTypeOf(event.subject).toEqualTypeOf<string | undefined>()
      expectTypeOf(event.time).toEqualTypeOf<Date>()
      expectTypeOf(attempt).toEqualTypeOf<number>()
      expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
    }),
    consumer.onBatch(Opened, async (events) => {
      expectTypeOf(events).toEqualTypeOf<readonly EventOf<typeof Opened>[]>()
    }),
    consumer.on(Opened, () => {}, { key: (event) => event.data.name }),
  ])
})

it('gives several definitions as a union that the version, or the type, tells apart', () => {
  compiled(({ consumer }) => [
    consumer.on([PlacedV1, PlacedV2], async (event) => {
      expectTypeOf(event.version).toEqualTypeOf<1 | 2>()
      if (event.version === 1) expectTypeOf(event.data).toEqualTypeOf<{ total: number; note: string }>()
      else expectTypeOf(event.data).toEqualTypeOf<{ cents: number }>()
    }),
    consumer.onBatch([PlacedV2, Opened], async (events) => {
      for (const event of events) {
        if (event.type === 'shop.opened') expectTypeOf(event.data).toEqualTypeOf<{ name: string }>()
        else expectTypeOf(event.data).toEqualTypeOf<{ cents: number }>()
      }
    }),
  ])
})

it('gives the transaction of whatever library', () => {
  compiled(({ pool, drizzle, kysely, at }) => {
    const withPg = createConsumer({ ...at, db: pool })
    expectTypeOf(withPg).toEqualTypeOf<Consumer<pg.PoolClient>>()
    const withDrizzle = createConsumer({ ...at, db: { transaction: (run) => drizzle.transaction(run) } })
    expectTypeOf(withDrizzle).toEqualTypeOf<Consumer<DrizzleTx>>()
    const withKysely = createConsumer({ ...at, db: { transaction: (run) => kysely.transaction().execute(run) } })
    expectTypeOf(withKysely).toEqualTypeOf<Consumer<KyselyTx<Tables>>>()
    const byHand: DatabaseAdapter<DrizzleTx> = { transaction: (run) => drizzle.transaction(run), maxTransactions: 5 }
    expectTypeOf(createConsumer({ ...at, db: byHand })).toEqualTypeOf<Consumer<DrizzleTx>>()
    return [
      withPg.on(Opened, (_, { tx }) => expectTypeOf(tx).toEqualTypeOf<pg.PoolClient>()),
      withDrizzle.on(Opened, (_, { tx }) => expectTypeOf(tx).toEqualTypeOf<DrizzleTx>()),
      withKysely.onBatch(Opened, (_, { tx }) => expectTypeOf(tx).toEqualTypeOf<KyselyTx<Tables>>()),
    ]
  })
})

/** As Prisma's client is typed: the function that takes a list comes first. */
interface Prisma {
  order: { count(): Promise<number> }
  $queryRawUnsafe<Row>(text: string, ...values: unknown[]): Promise<Row>
  $transaction<Statements extends Promise<unknown>[]>(statements: [...Statements]): Promise<unknown[]>
  $transaction<Result>(
    run: (tx: Omit<Prisma, '$transaction'>) => Promise<Result>,
    options?: { timeout?: number },
  ): Promise<Result>
}

/** As the one of postgres.js is. */
interface Postgres {
  begin<Result>(
    run: (sql: { unsafe(text: string, values?: unknown[]): Promise<unknown[]> }) => Result | Promise<Result>,
  ): Promise<Result extends unknown[] ? { [Place in keyof Result]: Awaited<Result[Place]> } : Result>
}

it('infers the transaction of any adapter from what its transaction passes on', () => {
  compiled(({ pool, at }) => {
    const { prisma, sql } = {} as { prisma: Prisma; sql: Postgres }
    const withPrisma = createConsumer({
      ...at,
      db: {
        transaction: (run) => prisma.$transaction(run, { timeout: 60_000 }),
        query: (tx, text, values) => tx.$queryRawUnsafe(text, ...values),
      },
    })
    const withPostgres = createConsumer({
      ...at,
      db: { transaction: (run) => sql.begin(run), query: (tx, text, values) => tx.unsafe(text, values) },
    })
    const byHand = createConsumer({
      ...at,
      db: {
        async transaction(run) {
          const client = await pool.connect()
          const result = await run(client)
          client.release()
          return result
        },
      },
    })
    expectTypeOf(byHand).toEqualTypeOf<Consumer<pg.PoolClient>>()
    return [
      withPrisma.on(Opened, (_, { tx }) => expectTypeOf(tx).toEqualTypeOf<Omit<Prisma, '$transaction'>>()),
      withPostgres.on(Opened, (_, { tx }) => expectTypeOf(tx.unsafe('')).toEqualTypeOf<Promise<unknown[]>>()),
    ]
  })
})

it('hands the result of work to commit, and gives a transaction to commit alone', () => {
  compiled(({ consumer }) =>
    consumer.on([PlacedV1, PlacedV2], {
      work: async (event, context) => {
        expectTypeOf(context).toEqualTypeOf<WorkContext>()
        return { pages: event.version }
      },
      commit: async (event, result, { tx }) => {
        expectTypeOf(event.version).toEqualTypeOf<1 | 2>()
        expectTypeOf(result).toEqualTypeOf<{ pages: 1 | 2 }>()
        expectTypeOf(tx).toEqualTypeOf<pg.PoolClient>()
      },
    }),
  )
})

it('types publish in a handler by the definition of what is published', () => {
  compiled(({ consumer }) =>
    consumer.on(Opened, async (_, { publish }) => {
      expectTypeOf(publish(PlacedV1, { data: { total: '99' } })).toEqualTypeOf<Promise<string>>()
      expectTypeOf(publish(PlacedV1, [{ data: { total: '99' } }])).toEqualTypeOf<Promise<string[]>>()
      expectTypeOf(publish(Ping, {})).toEqualTypeOf<Promise<string>>()
      // @ts-expect-error: the schema's output, not its input
      publish(PlacedV1, { data: { total: 99 } })
      // @ts-expect-error: no payload
      publish(PlacedV1, {})
    }),
  )
})

it('types deliver by the definition, and takes any event by its type', () => {
  compiled(({ consumer }) => {
    expectTypeOf(consumer.deliver(Opened, { data: { name: 'a' } })).toEqualTypeOf<Promise<Delivered>>()
    return [
      consumer.deliver(Ping, {}),
      consumer.deliver({ type: 'shop.opened', data: { name: 'a' }, version: 3, headers: { tenant: 'a' } }),
      // @ts-expect-error: a wrong payload
      consumer.deliver(Opened, { data: { name: 1 } }),
      // @ts-expect-error: no payload
      consumer.deliver(Opened, { subject: 'shop-1' }),
      // @ts-expect-error: a definition without an event
      consumer.deliver(Opened),
      // @ts-expect-error: an event without a type
      consumer.deliver({ data: { name: 'a' } }),
      // @ts-expect-error: an attribute that there is not
      consumer.deliver({ type: 'shop.opened', correlation_id: 'c-1' }),
    ]
  })
})

it('wraps any call: run is generic, and there is a transaction only where there is one', () => {
  compiled(({ pool, at }) => [
    createConsumer({
      ...at,
      db: pool,
      wrap: async (event, run, context) => {
        expectTypeOf(event).toEqualTypeOf<ConsumerEvent | ConsumerEvent[]>()
        expectTypeOf(context.tx).toEqualTypeOf<pg.PoolClient | undefined>()
        expectTypeOf(context.signal).toEqualTypeOf<AbortSignal>()
        return await run()
      },
    }),
    // @ts-expect-error: the result of the call is not passed on
    createConsumer({ ...at, db: pool, wrap: async (_, run) => void (await run()) }),
  ])
})

it('takes the URL of Redis from a variable of the environment, which may be undefined', () => {
  compiled(({ pool }) => [
    createConsumer({ redis: process.env.REDIS_URL, db: pool, group: 'billing' }),
    createConsumer({ redis: { url: process.env.REDIS_URL }, db: pool, group: 'billing' }),
  ])
})

it('gives the transaction of Knex and TypeORM', () => {
  compiled(({ at }) => {
    const { knex, dataSource } = {} as { knex: Knex; dataSource: DataSource }
    const withKnex = createConsumer({ ...at, db: { transaction: (run) => knex.transaction(run) } })
    expectTypeOf(withKnex).toEqualTypeOf<Consumer<Knex.Transaction>>()
    const withTypeOrm = createConsumer({ ...at, db: { transaction: (run) => dataSource.transaction(run) } })
    expectTypeOf(withTypeOrm).toEqualTypeOf<Consumer<EntityManager>>()
    // @ts-expect-error: a Knex instance
    createConsumer({ ...at, db: knex })
    // @ts-expect-error: a DataSource of TypeORM
    return createConsumer({ ...at, db: dataSource })
  })
})

it('does not compile with what is no pool and no adapter as db', () => {
  compiled(({ pool, drizzle, kysely, at }) => {
    const { client, poolClient } = {} as { client: pg.Client; poolClient: pg.PoolClient }
    return [
      // @ts-expect-error: one connection
      createConsumer({ ...at, db: client }),
      // @ts-expect-error: one connection of a pool
      createConsumer({ ...at, db: poolClient }),
      // @ts-expect-error: a Drizzle database
      createConsumer({ ...at, db: drizzle }),
      // @ts-expect-error: a Kysely database
      createConsumer({ ...at, db: kysely }),
      // @ts-expect-error: a URL
      createConsumer({ ...at, db: 'postgres://localhost/shop' }),
      // @ts-expect-error: nothing
      createConsumer({ ...at }),
      // @ts-expect-error: an adapter that does not pass on what was run
      createConsumer({ ...at, db: { transaction: (run) => drizzle.transaction(async (tx) => void (await run(tx))) } }),
      createConsumer({
        ...at,
        // @ts-expect-error: a query that returns neither rows nor { rows }
        db: { transaction: (run) => drizzle.transaction(run), query: async () => 1 },
      }),
      createConsumer({ ...at, db: pool }),
    ]
  })
})

it('does not compile with a handler of something else', () => {
  compiled(({ consumer, kysely, at }) => {
    const withKysely = createConsumer({ ...at, db: { transaction: (run) => kysely.transaction().execute(run) } })
    const ofPg: Handler<typeof Opened, pg.PoolClient> = () => {}
    return [
      // @ts-expect-error: the schema's input, not its output
      consumer.on(PlacedV1, (_: { data: { total: string } }) => {}),
      // @ts-expect-error: only the first version
      consumer.on([PlacedV1, PlacedV2], (_: EventOf<typeof PlacedV1>) => {}),
      // @ts-expect-error: a handler of one event, where many come
      consumer.onBatch(Opened, (_: EventOf<typeof Opened>) => {}),
      // @ts-expect-error: the transaction of another library
      withKysely.on(Opened, ofPg),
      // @ts-expect-error: no tx where no transaction is
      consumer.on(Opened, { work: (_, { tx }) => tx, commit: () => {} }),
      // @ts-expect-error: a commit of another result
      consumer.on(Opened, { work: async () => 1, commit: (_, _result: string) => {} }),
      // @ts-expect-error: no commit
      consumer.on(Opened, { work: async () => 1 }),
      // @ts-expect-error: not a definition
      consumer.on({ type: 'shop.opened' }, () => {}),
      consumer.on(Opened, ofPg),
    ]
  })
})

it('does not compile with options that there are not', () => {
  compiled(({ consumer, pool, at }) => [
    // @ts-expect-error: a misspelt option
    createConsumer({ ...at, db: pool, concurency: 4 }),
    // @ts-expect-error: of a wrong type
    createConsumer({ ...at, db: pool, startFrom: 'end' }),
    // @ts-expect-error: without a group
    createConsumer({ redis: 'redis://localhost', db: pool }),
    // @ts-expect-error: a misspelt option of a handler
    consumer.on(Opened, () => {}, { retries: 4 }),
    // @ts-expect-error: a size where no batch is
    consumer.on(Opened, () => {}, { size: 100 }),
    // @ts-expect-error: a key of what is not in the event
    consumer.onBatch(Opened, () => {}, { key: (event) => event.data.total }),
    consumer.onBatch(Opened, () => {}, { size: 100, concurrency: 2, backoff: { min: '1s' }, maxAttempts: 3 }),
    createConsumer({ redis: {} as Redis, db: pool, group: 'billing', claimAfter: '30s', skip: [Opened, 'ping'] }),
  ])
})

it('keeps the consumer through its chain, and takes the same transactions for accept as publish does', () => {
  compiled(({ consumer, pool }) => {
    expectTypeOf(consumer.on(Opened, () => {}).onBatch(Ping, () => {})).toEqualTypeOf(consumer)
    expectTypeOf(accept).parameter(0).toEqualTypeOf<Transaction>()
    expectTypeOf<HandlerContext<pg.PoolClient>['tx']>().toExtend<Transaction>()
    // @ts-expect-error: a pool
    return accept(pool, { group: 'billing', source: '/shop', id: 'e-1' })
  })
})
