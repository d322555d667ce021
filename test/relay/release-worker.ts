import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import pg from 'pg'
import pino from 'pino'
import { z } from 'zod'

/*
 * A worker as a process of its own, with the library of a release: one row of the table `effect` an event.
 * Its argument: a ReleaseWorkerConfig.
 */

export interface ReleaseWorkerConfig {
  folder: string
  release: string
  redis: string
  postgres: string
  streams: string[]
}

const { folder, release, redis, postgres, streams } = JSON.parse(process.argv[2] as string) as ReleaseWorkerConfig
const load = (file: string) => import(pathToFileURL(join(folder, 'dist', file)).href)
const { defineEvent }: typeof import('../../src/index.js') = await load('index.js')
const { createConsumer }: typeof import('../../src/consumer/index.js') = await load('consumer/index.js')

const definitions = streams.map((stream) =>
  defineEvent({ stream, type: 'test.happened', version: 1, data: z.object({ n: z.number() }) }),
)
const pool = new pg.Pool({ connectionString: postgres, max: 10 })
const consumer = createConsumer({
  ...{ redis, db: pool, group: 'billing', concurrency: 8 },
  logger: pino({ formatters: { level: (level) => ({ level }) } }, pino.destination({ dest: 1, sync: true })),
}).on(definitions, async ({ id }, { tx }) => {
  await tx.query('insert into effect (event, release) values ($1, $2)', [id, release])
})

const controller = new AbortController()
process.once('SIGTERM', () => controller.abort())
await consumer.run({ signal: controller.signal })
await pool.end()
