import { writeSync } from 'node:fs'
import pg from 'pg'
import pino from 'pino'
import { z } from 'zod'
import { createConsumer, DeadLetter, Retry } from '../../src/consumer/index.js'
import { defineEvent } from '../../src/index.js'
import type { Failpoint, WorkerConfig } from './worker-process.js'

// The program of a worker process: one effect an event, and one place where it may have to die. Its argument: a WorkerConfig.

const config = JSON.parse(process.argv[2] as string) as WorkerConfig
const { name, group, streams, ordered, concurrency, claimAfter, death, slow } = config

/** At once: what a process has not written when it is killed is never read. */
const say = (line: object) => writeSync(1, `${JSON.stringify(line)}\n`)

const definitions = streams.map((stream) =>
  defineEvent({
    stream,
    type: 'thing.happened',
    version: 1,
    data: z.object({
      n: z.number(),
      fails: z.number().default(0),
      dead: z.boolean().default(false),
      waits: z.boolean().default(false),
    }),
  }),
)

let calls = 0
/** The event whose transaction a session is in. */
const events = new Map<number, { id: string; attempt: number }>()

const sessionOf = (client: pg.PoolClient): number => (client as pg.PoolClient & { processID: number }).processID

function dieAt(place: Failpoint, { id, attempt }: { id: string; attempt: number }): void {
  if (death?.at !== place || calls < death.call || (death.retried && attempt === 1)) return
  say({ died: place, event: id })
  process.kill(process.pid, 'SIGKILL')
  for (;;);
}

const pool = new pg.Pool({ connectionString: config.postgres, max: concurrency + 2, application_name: name })
pool.on('error', () => {})
pool.on('connect', (client) => {
  const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>
  const commit = async () => {
    const result = await query('commit')
    const event = events.get(sessionOf(client))
    events.delete(sessionOf(client))
    if (event !== undefined) {
      dieAt('after commit', event)
      // Behind every promise that the result settles, and before anything else: the library knows, Redis does not.
      process.nextTick(() => dieAt('before XACK', event))
    }
    return result
  }
  client.query = ((...args: unknown[]) => (args[0] === 'commit' ? commit() : query(...args))) as typeof client.query
})

const consumer = createConsumer({
  ...{ redis: config.redis, db: pool, group, name, concurrency, claimAfter, ordered },
  backoff: { min: 500, max: 1_000 },
  logger: pino({ formatters: { level: (level) => ({ level }) } }, pino.destination({ dest: 1, sync: true })),
}).on(definitions, async ({ id, subject, data }, { tx, attempt }) => {
  calls += 1
  dieAt('after inbox', { id, attempt })
  if (data.waits && attempt === 1) throw new Retry({ after: '11m' })
  if (data.dead) throw new DeadLetter('dead from the beginning')
  if (attempt <= data.fails) throw new Error('not yet')
  // The one before, as far as it is committed: in order, it always is.
  await tx.query(
    `insert into effect (event, n, subject, worker, attempt, previous)
     values ($1, $2, $3, $4, $5, (select max(n) from effect where subject = $3))`,
    [id, data.n, subject, name, attempt],
  )
  if (slow > 0) await tx.query('select pg_sleep($1)', [slow / 1_000])
  dieAt('before commit', { id, attempt })
  events.set(sessionOf(tx), { id, attempt })
})

let duplicates = 0
const counting = setInterval(async () => {
  const metric = await consumer.registry.getSingleMetric('outrider_consumer_duplicates_total')?.get()
  const found = (metric?.values ?? []).reduce((sum, { value }) => sum + value, 0)
  if (found > duplicates) say({ duplicates: found })
  duplicates = found
}, 50)

const controller = new AbortController()
process.once('SIGTERM', () => controller.abort())
await consumer.run({ signal: controller.signal })
await pool.end()
clearInterval(counting)
