import type { NodePgDatabase, NodePgQueryResultHKT, NodePgTransaction } from 'drizzle-orm/node-postgres'
import type { PgTransaction as DrizzleTx } from 'drizzle-orm/pg-core'
import type { Knex } from 'knex'
import type { ControlledTransaction, Kysely, Transaction as KyselyTx } from 'kysely'
import type pg from 'pg'
import type { DataSource, EntityManager, QueryRunner } from 'typeorm'
import * as v from 'valibot'
import { expectTypeOf, it } from 'vitest'
import { z } from 'zod'
import {
  defineEvent,
  type EventInputData,
  type EventOutputData,
  type OutboxRow,
  publish,
  type Transaction,
  toRow,
} from '../../src/index.js'

const OrderPlaced = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 1,
  data: z.object({ total: z.string().transform(Number), note: z.string().default('') }),
})
const Opened = defineEvent({ stream: 'shops', type: 'shop.opened', version: 2, data: v.object({ name: v.string() }) })
const Ping = defineEvent({ stream: 'pings', type: 'ping', version: 1, data: z.undefined() })

/** Compiled, never run. */
const compiled = (_: (tx: pg.PoolClient) => unknown) => {}

it('infers the payload from the schema: its input to publish, its output to handle', () => {
  expectTypeOf<EventInputData<typeof OrderPlaced>>().toEqualTypeOf<{ total: string; note?: string | undefined }>()
  expectTypeOf<EventOutputData<typeof OrderPlaced>>().toEqualTypeOf<{ total: number; note: string }>()
  expectTypeOf<EventInputData<typeof Opened>>().toEqualTypeOf<{ name: string }>()
  expectTypeOf(Opened.type).toEqualTypeOf<'shop.opened'>()
  expectTypeOf(Opened.version).toEqualTypeOf<2>()
})

it('returns an id for an event, and ids for an array', () => {
  compiled((tx) => {
    expectTypeOf(publish(tx, Opened, { data: { name: 'a' } })).toEqualTypeOf<Promise<string>>()
    expectTypeOf(publish(tx, Opened, [{ data: { name: 'a' } }])).toEqualTypeOf<Promise<string[]>>()
    expectTypeOf(publish(tx, Ping, {})).toEqualTypeOf<Promise<string>>()
  })
  expectTypeOf(toRow(Opened, { data: { name: 'a' } })).toEqualTypeOf<OutboxRow>()
})

it('does not compile with a wrong payload', () => {
  compiled((tx) => [
    // @ts-expect-error: the output's type is not the input's
    publish(tx, OrderPlaced, { data: { total: 99 } }),
    // @ts-expect-error: a missing property
    publish(tx, Opened, { data: {} }),
    // @ts-expect-error: no payload at all
    publish(tx, Opened, { subject: 'shop-1' }),
    // @ts-expect-error: one wrong event among others
    publish(tx, Opened, [{ data: { name: 'a' } }, { data: { name: 1 } }]),
    // @ts-expect-error: a property that there is not
    publish(tx, Opened, { data: { name: 'a' }, correlation_id: 'c-1' }),
    // @ts-expect-error: a header that is no string
    publish(tx, Opened, { data: { name: 'a' }, headers: { retries: 3 } }),
    // @ts-expect-error: a payload where the schema has none
    publish(tx, Ping, { data: 1 }),
    // @ts-expect-error: toRow, too
    toRow(OrderPlaced, { data: { total: 99 } }),
    // @ts-expect-error: not a schema
    defineEvent({ stream: 'orders', type: 'order.placed', version: 1, data: { total: 'number' } }),
  ])
})

it('takes the transactions of pg, Drizzle, Kysely, Knex and TypeORM, and adapters', () => {
  expectTypeOf<pg.Client>().toExtend<Transaction>()
  expectTypeOf<pg.PoolClient>().toExtend<Transaction>()
  expectTypeOf<pg.ClientBase>().toExtend<Transaction>()
  type Schema = Record<string, never>
  expectTypeOf<NodePgTransaction<Schema, Schema>>().toExtend<Transaction>()
  expectTypeOf<DrizzleTx<NodePgQueryResultHKT, Schema, Schema>>().toExtend<Transaction>()
  expectTypeOf<Parameters<Parameters<NodePgDatabase['transaction']>[0]>[0]>().toExtend<Transaction>()
  expectTypeOf<KyselyTx<{ orders: { id: string } }>>().toExtend<Transaction>()
  expectTypeOf<ControlledTransaction<{ orders: { id: string } }>>().toExtend<Transaction>()
  expectTypeOf<Knex.Transaction>().toExtend<Transaction>()
  expectTypeOf<EntityManager>().toExtend<Transaction>()
  expectTypeOf<QueryRunner>().toExtend<Transaction>()
  compiled((tx) => publish({ query: (text, values) => tx.query(text, values) }, Ping, {}))
})

it('does not compile with what is no transaction', () => {
  compiled(() => {
    const { pool, drizzle, kysely, knex, dataSource, withPool, other } = {} as {
      pool: pg.Pool
      knex: Knex
      dataSource: DataSource
      drizzle: NodePgDatabase
      withPool: NodePgDatabase & { $client: pg.Pool }
      kysely: Kysely<{ orders: { id: string } }>
      other: { query(text: string, values: unknown[]): Promise<unknown>; transaction(run: () => void): void }
    }
    return [
      // @ts-expect-error: a pool
      publish(pool, Ping, {}),
      // @ts-expect-error: a Drizzle database
      publish(drizzle, Ping, {}),
      // @ts-expect-error: a Drizzle database as drizzle(pool) gives it
      publish(withPool, Ping, {}),
      // @ts-expect-error: a Kysely database
      publish(kysely, Ping, {}),
      // @ts-expect-error: a Knex instance
      publish(knex, Ping, {}),
      // @ts-expect-error: a DataSource of TypeORM
      publish(dataSource, Ping, {}),
      // @ts-expect-error: another library's database, which has a query and begins transactions
      publish(other, Ping, {}),
      // @ts-expect-error: nothing
      publish(undefined, Ping, {}),
      // @ts-expect-error: an adapter that returns nothing to wait for
      publish({ query: () => {} }, Ping, {}),
    ]
  })
})
