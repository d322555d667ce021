import { sql as drizzleSql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import createKnex, { type Knex } from 'knex'
import { Kysely, sql as kyselySql, PostgresDialect } from 'kysely'
import pg from 'pg'
import { DataSource, type EntityManager } from 'typeorm'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { TransactionFailedError } from '../../src/consumer/inbox/database.js'
import { databaseOf } from '../../src/consumer/inbox/database-of.js'
import { classifyDatabaseError } from '../../src/consumer/inbox/error-class.js'
import {
  type Consumer,
  type ConsumerEvent,
  type ConsumerOptions,
  createConsumer,
  type DatabaseOption,
} from '../../src/consumer/index.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { entryOf } from '../../testkit/entry.js'
import { createDatabase, type Database, freshRedis, until } from '../../testkit/services/index.js'
import { Happened } from './happened.js'

type Thing = ConsumerEvent<{ n: number }>
type Options = Partial<Omit<ConsumerOptions, 'db' | 'wrap'>>

/** A way to the database, as a team that uses this library has it. */
interface Library<Tx> {
  consumer(options?: Options): Consumer<Tx>
  /** One effect, as the library's users write it. The table has no unique constraint, so that doubles show. */
  insert(tx: Tx, event: Thing): Promise<unknown>
  /** The same, in each way that it can be made of the transaction now and run when it is called. */
  later(tx: Tx, event: Thing): (() => PromiseLike<unknown>)[]
  /** How a use after the end is refused, by the library or by the handle. */
  refusal?: RegExp
  /** A statement of the handler's own. */
  run(tx: Tx, text: string): Promise<unknown>
  /** What `createConsumer` takes. */
  db: DatabaseOption
}

let database: Database
let pool: pg.Pool
let knex: Knex
let dataSource: DataSource

const quiet = { debug() {}, info() {}, warn() {}, error() {} }
const base = { redis: 'redis://127.0.0.1:1', group: 'billing', logger: quiet }

beforeAll(async () => {
  database = await createDatabase()
  const owner = await database.connect()
  await migrate(owner)
  await owner.query('create table effect (event text, n int)')
  await owner.end()
  pool = new pg.Pool({ connectionString: database.url, max: 5 })
  // What a team does whose library leaves a connection that is lost in a transaction to it.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  knex = createKnex({ client: 'pg', connection: database.url, pool: { min: 0, max: 5 } })
  dataSource = await new DataSource({ type: 'postgres', url: database.url, poolSize: 5 }).initialize()
})

afterAll(async () => {
  await dataSource?.destroy()
  await knex?.destroy()
  await pool?.end()
  await database?.drop()
})

beforeEach(async () => {
  await pool.query('truncate effect, outrider.inbox, outrider.outbox, outrider.subscription')
})

const effects = async (): Promise<number[]> => {
  const { rows } = await pool.query<{ n: number }>('select n from effect order by n')
  return rows.map(({ n }) => n)
}
const inbox = async (): Promise<number> => {
  const { rows } = await pool.query<{ n: number }>('select count(*)::int as n from outrider.inbox')
  return rows[0]?.n as number
}

const DIVIDE = 'select 1 / 0'
const CONFLICT = "do $$ begin raise 'as if' using errcode = '40001'; end $$"

/** The messages of an error and of what caused it. */
const story = (error: unknown): string =>
  error instanceof Error ? `${error.message}; ${story(error.cause)}` : String(error)

function holds<Tx>(name: string, open: () => Library<Tx>): void {
  const thing = (n: number, id: string = crypto.randomUUID()) => ({ id, data: { n } })

  describe(`with ${name}`, () => {
    it('commits an effect in one transaction with the record that it is done, and skips what was done', async () => {
      const { consumer, insert } = open()
      const worker = consumer().on(Happened, (event, { tx }) => insert(tx, event))
      expect(await worker.deliver(Happened, thing(1, 'e1e1e1e1-0000-4000-8000-000000000001'))).toBe('done')
      expect(await worker.deliver(Happened, thing(1, 'e1e1e1e1-0000-4000-8000-000000000001'))).toBe('duplicate')
      const { rows } = await pool.query(
        'select effect.n, i.consumer_group, i.source, i.id from effect join outrider.inbox i on i.xmin = effect.xmin',
      )
      const id = 'e1e1e1e1-0000-4000-8000-000000000001'
      expect(rows).toEqual([{ n: 1, consumer_group: 'billing', source: '/test', id }])
      expect(await effects()).toEqual([1])
    })

    it('rolls both back where the handler throws, and rejects with what it threw', async () => {
      const { consumer, insert } = open()
      const boom = new Error('boom')
      const worker = consumer().on(Happened, async (event, { tx }) => {
        await insert(tx, event)
        throw boom
      })
      await expect(worker.deliver(Happened, thing(2))).rejects.toBe(boom)
      expect([await effects(), await inbox()]).toEqual([[], 0])
    })

    it('does not take for done what a failed statement has undone, though the handler swallowed its error', async () => {
      const { consumer, insert, run } = open()
      const worker = consumer().on(Happened, async (event, { tx }) => {
        await insert(tx, event)
        await run(tx, DIVIDE).catch(() => {})
      })
      const told = await worker.deliver(Happened, thing(3)).catch(story)
      expect(told).toMatch(/a statement in it had failed: Postgres rolled it back|current transaction is aborted/)
      expect([await effects(), await inbox()]).toEqual([[], 0])
    })

    it('tells a conflict or a loss of its own transaction from an error with the same code of another database', async () => {
      const { db, run } = open()
      const faultAfter = async (work: (tx: never) => Promise<unknown>) => {
        const first = { text: 'select 1 as one', values: [] }
        const failure = await databaseOf(db)
          .transaction({ first, read: () => true, work: (tx) => work(tx as never) })
          .catch((error: TransactionFailedError) => error)
        return classifyDatabaseError(failure as TransactionFailedError)
      }
      expect(await faultAfter((tx) => run(tx, CONFLICT))).toBe('conflict')
      expect(await faultAfter((tx) => run(tx, DIVIDE))).toBeUndefined()
      expect(await faultAfter((tx) => run(tx, 'select pg_terminate_backend(pg_backend_pid())'))).toBe('outage')
      for (const code of ['40001', '53300', '57P01']) {
        expect(await faultAfter(() => Promise.reject(Object.assign(new Error('of an API'), { code })))).toBeUndefined()
      }
    })

    it('refuses what a handler does with its transaction after it has returned', async () => {
      const { consumer, insert } = open()
      let late: (() => Promise<unknown>)[] = []
      const worker = consumer().on(Happened, async (event, { tx, publish }) => {
        await insert(tx, event)
        late = [async () => insert(tx, event), () => publish(Happened, { data: event.data })]
      })
      await worker.deliver(Happened, thing(7))
      for (const use of late) await expect(use()).rejects.toThrow(/Expected tx and publish to be used before/)
      expect(await effects()).toEqual([7])
      expect((await pool.query('select from outrider.outbox')).rowCount).toBe(0)
    })

    it('refuses a statement that was made of an ended transaction while its connection serves another event', async () => {
      const { consumer, insert, later, refusal = /Expected tx and publish to be used before/ } = open()
      let late: (() => PromiseLike<unknown>)[] | undefined
      const told: unknown[] = []
      const worker = consumer().on(Happened, async (event, { tx }) => {
        await insert(tx, event)
        if (!late) late = later(tx, { ...event, data: { n: 9 } })
        else for (const run of late) told.push(await Promise.resolve().then(run).catch(story))
      })
      await worker.deliver(Happened, thing(7))
      await worker.deliver(Happened, thing(8))
      expect(told).toEqual(late?.map(() => expect.stringMatching(refusal)))
      expect(await effects()).toEqual([7, 8])
    })

    it('opens no transaction for work, and commits its result in one; what is done is not worked on again', async () => {
      const { consumer, insert } = open()
      const openMeanwhile: unknown[] = []
      const worker = consumer().on(Happened, {
        work: async (event) => {
          const transactions = await database.query(
            "select query from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
          )
          openMeanwhile.push(transactions)
          return event.data.n * 100
        },
        commit: async (event, n, { tx }) => insert(tx, { ...event, data: { n } }),
      })
      const given = thing(4)
      expect(await worker.deliver(Happened, given)).toBe('done')
      expect(await worker.deliver(Happened, given)).toBe('duplicate')
      expect(openMeanwhile).toEqual([[]])
      expect([await effects(), await inbox()]).toEqual([[400], 1])
    })

    it('publishes in the transaction, with the ids of the cause, and shares its fate', async () => {
      const { consumer } = open()
      const worker = consumer().on(Happened, async (event, { publish }) => {
        await publish(Happened, { subject: 'next', data: { n: event.data.n + 1 } })
        if (event.data.n === 6) throw new Error('boom')
      })
      const given = { ...thing(5), correlationId: 'c-1' }
      await worker.deliver(Happened, given)
      await expect(worker.deliver(Happened, thing(6))).rejects.toThrow('boom')
      const { rows } = await pool.query('select subject, data, correlation_id, causation_id from outrider.outbox')
      expect(rows).toEqual([{ subject: 'next', data: { n: 6 }, correlation_id: 'c-1', causation_id: given.id }])
    })

    it('works from a stream: batches in few transactions, each event once, a poison event among the dead', async () => {
      const { consumer, insert, run } = open()
      const server = await freshRedis()
      const redis = server.client()
      const append = async (data: unknown, id?: string) => redis.xadd('things', '*', ...entryOf(data, id ? { id } : {}))
      const twice = crypto.randomUUID()
      for (let n = 0; n < 60; n++) await append({ n })
      for (let n = 0; n < 2; n++) await append({ n: 60 }, twice)
      await append({ n: 666 })
      const worker = consumer({ redis: server.url, maxAttempts: 2, backoff: { min: 1, max: 1 } }).onBatch(
        Happened,
        async (events, { tx }) => {
          for (const event of events) await insert(tx, event)
          if (events.some(({ data }) => data.n === 666)) await run(tx, DIVIDE).catch(() => {})
        },
        { size: 30 },
      )
      await worker.start()
      const pending = async () => ((await redis.xpending('things', 'billing')) as [number])[0]
      await until(async () => (await effects()).length >= 61 && (await pending()) === 0)
      expect(await effects()).toEqual(Array.from({ length: 61 }, (_, n) => n))
      const { rows } = await pool.query('select count(distinct xmin::text)::int as n from effect')
      // The batch with the poison event, of three or more, was done one by one.
      expect(rows[0].n).toBeLessThan(40)
      const [dead] = (await redis.xrange('outrider:{things}:dead:billing', '-', '+')) as [[string, string[]]]
      expect(dead[1]).toEqual(expect.arrayContaining(['{"n":666}', 'attempts_exhausted', '2']))
      await worker.stop()
      redis.disconnect()
      await server.remove()
    })
  })
}

holds<pg.PoolClient>('a Pool of pg', () => ({
  consumer: (options) => createConsumer({ ...base, db: pool, ...options }),
  insert: (tx, { id, data }) => tx.query('insert into effect values ($1, $2)', [id, data.n]),
  later: ({ query }, { id, data }) => [() => query('insert into effect values ($1, $2)', [id, data.n])],
  run: (tx, text) => tx.query(text),
  db: pool,
}))

const effect = pgTable('effect', { event: text(), n: integer() })

function openDrizzle() {
  const db = drizzle(pool)
  type Tx = Parameters<Parameters<typeof db.transaction>[0]>[0]
  return {
    consumer: (options?: Options) =>
      createConsumer({ ...base, db: { transaction: (run) => db.transaction(run) }, ...options }),
    insert: async (tx: Tx, { id, data }: Thing) => tx.insert(effect).values({ event: id, n: data.n }),
    later: (tx: Tx, { id, data }: Thing) => {
      const statement = tx.insert(effect).values({ event: id, n: data.n })
      const prepared = statement.prepare('late')
      return [() => statement.execute(), () => prepared.execute()]
    },
    run: async (tx: Tx, text: string) => tx.execute(drizzleSql.raw(text)),
    db: { transaction: (run) => db.transaction(run) } satisfies DatabaseOption,
  }
}

holds('Drizzle', openDrizzle)

function openKysely() {
  const db = new Kysely<{ effect: { event: string; n: number } }>({ dialect: new PostgresDialect({ pool }) })
  type Tx = Parameters<Parameters<ReturnType<typeof db.transaction>['execute']>[0]>[0]
  return {
    consumer: (options?: Options) =>
      createConsumer({ ...base, db: { transaction: (run) => db.transaction().execute(run) }, ...options }),
    insert: (tx: Tx, { id, data }: Thing) => tx.insertInto('effect').values({ event: id, n: data.n }).execute(),
    later: (tx: Tx, { id, data }: Thing) => {
      const statement = tx.insertInto('effect').values({ event: id, n: data.n })
      return [() => statement.execute()]
    },
    refusal: /already committed/,
    run: (tx: Tx, text: string) => kyselySql.raw(text).execute(tx),
    db: { transaction: (run) => db.transaction().execute(run) } satisfies DatabaseOption,
  }
}

holds('Kysely', openKysely)

holds<Knex.Transaction>('Knex', () => ({
  consumer: (options) =>
    createConsumer({ ...base, db: { transaction: (run) => knex.transaction(run), maxTransactions: 5 }, ...options }),
  insert: async (tx, { id, data }) => tx('effect').insert({ event: id, n: data.n }),
  later: (tx, { id, data }) => {
    const statement = tx('effect').insert({ event: id, n: data.n })
    return [() => statement.then((result) => result)]
  },
  refusal: /already complete/,
  run: async (tx, text) => tx.raw(text),
  db: { transaction: (run) => knex.transaction(run) },
}))

holds<EntityManager>('TypeORM', () => ({
  consumer: (options) =>
    createConsumer({
      ...base,
      db: { transaction: (run) => dataSource.transaction(run), maxTransactions: 5 },
      ...options,
    }),
  insert: (tx, { id, data }) => tx.query('insert into effect values ($1, $2)', [id, data.n]),
  later: ({ queryRunner }, { id, data }) => {
    const statement = queryRunner!.manager.createQueryBuilder().insert().into('effect').values({ event: id, n: data.n })
    return [() => statement.execute()]
  },
  refusal: /already released/,
  run: (tx, text) => tx.query(text),
  db: { transaction: (run) => dataSource.transaction(run) },
}))

/** A library that nobody here knows: its transaction has no query, so the adapter says how to run a statement. */
interface Session {
  run(text: string, ...values: unknown[]): Promise<unknown[]>
}

async function inSession<Result>(work: (session: Session) => Promise<Result>): Promise<Result> {
  const client = await pool.connect()
  try {
    await client.query('begin')
    const result = await work({ run: async (text, ...values) => (await client.query(text, values)).rows })
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback')
    throw error
  } finally {
    client.release()
  }
}

holds<Session>('an adapter for another library', () => ({
  consumer: (options) =>
    createConsumer({
      ...base,
      db: { transaction: (run) => inSession(run), query: (tx, text, values) => tx.run(text, ...values) },
      ...options,
    }),
  insert: (tx, { id, data }) => tx.run('insert into effect values ($1, $2)', id, data.n),
  later: ({ run }, { id, data }) => [() => run('insert into effect values ($1, $2)', id, data.n)],
  run: (tx, text) => tx.run(text),
  db: { transaction: (run) => inSession(run), query: (tx, text, values) => tx.run(text, ...values) },
}))
