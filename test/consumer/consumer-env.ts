import pg from 'pg'
import pino from 'pino'
import { test } from 'vitest'
import type { Consumer } from '../../src/consumer/consumer.js'
import { type ConsumerOptions, createConsumer } from '../../src/consumer/index.js'
import { type EntryInput, entryOf, fieldsOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { createTestEnv, type TestEnv, type TestEnvOptions } from '../support/test-env.js'
import { GROUP } from './happened.js'

/** A line of a consumer's log. */
export interface LogLine {
  level: string
  msg: string
  [key: string]: unknown
}

/** A workers' database with an inbox and a table of effects, a Redis, and consumers between them. */
export interface ConsumerEnv extends TestEnv {
  pool: pg.Pool
  logs: LogLine[]
  /** Appends entries as the relay would; their event ids. */
  append(key: string, datas: readonly unknown[], input?: EntryInput): Promise<string[]>
  /** One that is stopped when the test is over. */
  consumer(options?: Partial<ConsumerOptions<pg.Pool>>): Consumer<pg.PoolClient>
  /** What was done, in the order of committing; the table has no unique constraint, so that doubles show. */
  effects(): Promise<{ event: string; n: number; subject: string | null }[]>
  pending(key: string, group?: string): Promise<number>
  dead(key: string, group?: string): Promise<Record<string, string>[]>
  /** Waits until so many effects are there and nothing is pending. */
  drained(key: string, effects: number, timeout?: number): Promise<void>
}

/** The handler of most tests: one effect. */
export const effect = async (
  event: { id: string; subject?: string | undefined; data: unknown },
  { tx }: { tx: pg.PoolClient },
): Promise<void> => {
  await tx.query('insert into effect (event, n, subject) values ($1, $2, $3)', [
    event.id,
    (event.data as { n: number }).n,
    event.subject,
  ])
}

async function createConsumerEnv(options: TestEnvOptions = {}): Promise<ConsumerEnv> {
  const base = await createTestEnv({ ...options, migrated: 'inbox' })
  const { database, server, redis } = base
  const owner = await database.connect()
  await owner.query('create table effect (seq bigserial, event text, n int, subject text)')
  await owner.end()
  const pool = new pg.Pool({ connectionString: database.url, max: 20 })
  pool.on('error', () => {})
  const consumers: Consumer<pg.PoolClient>[] = []
  const logs: LogLine[] = []
  const logger = pino(
    { level: 'debug', formatters: { level: (level) => ({ level }) } },
    { write: (line) => logs.push(JSON.parse(line)) },
  )
  const env: ConsumerEnv = {
    ...base,
    ...{ pool, logs },
    async append(key, datas, input = {}) {
      const pipeline = redis.pipeline()
      const ids = datas.map((data) => {
        const fields = entryOf(data, input)
        pipeline.xadd(key, '*', ...fields)
        return fields[3] as string
      })
      for (const [error] of (await pipeline.exec()) ?? []) if (error) throw error
      return ids
    },
    consumer(options = {}) {
      const consumer = createConsumer<pg.Pool>({
        ...{ redis: server.url, db: pool, group: GROUP, claimAfter: '2s', backoff: { min: 10, max: 100 }, logger },
        ...options,
      })
      consumers.push(consumer)
      return consumer
    },
    async effects() {
      const { rows } = await pool.query('select event, n, subject from effect order by seq')
      return rows
    },
    async pending(key, group = GROUP) {
      const [count] = (await redis.xpending(key, group)) as [number]
      return count
    },
    async dead(key, group = GROUP) {
      const entries = await redis.xrange(`outrider:{${key}}:dead:${group}`, '-', '+')
      return entries.map(([, fields]) => fieldsOf(fields))
    },
    async drained(key, effects, timeout) {
      let found = 0
      await until(
        async () => {
          const { rows } = await pool.query('select count(*)::int as n from effect')
          found = rows[0].n
          return found >= effects && (await env.pending(key)) === 0
        },
        { timeout, message: () => `${effects} effects and nothing pending; ${found} effects\n${tail(logs)}` },
      )
    },
    async close() {
      await Promise.all(consumers.map((consumer) => consumer.stop({ timeout: 0 })))
      await endPool(pool)
      await base.close()
    },
  }
  return env
}

/** Its connections close a moment later than this resolves, and dropping their database ends them with an error. */
export async function endPool(pool: pg.Pool): Promise<void> {
  pool.on('error', () => {})
  await pool.end()
}

interface Fixtures {
  env: ConsumerEnv
  /** Makes one with options, and closes it when the test is over. */
  createEnv(options?: TestEnvOptions): Promise<ConsumerEnv>
}

export const consumerTest = test.extend<Fixtures>({
  env: async ({ createEnv }, use) => use(await createEnv()),
  // biome-ignore lint/correctness/noEmptyPattern: Vitest needs the pattern to see which fixtures are needed.
  createEnv: async ({}, use) => {
    const made: ConsumerEnv[] = []
    await use(async (options) => {
      const env = await createConsumerEnv(options)
      made.push(env)
      return env
    })
    for (const env of made) await env.close()
  },
})

const tail = (logs: LogLine[]): string =>
  logs
    .slice(-20)
    .map((line) => JSON.stringify(line))
    .join('\n')
