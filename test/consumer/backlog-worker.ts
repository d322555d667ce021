import pg from 'pg'
import pino from 'pino'
import { createConsumer } from '../../src/consumer/index.js'
import { GROUP, Happened } from './happened.js'

// The program of memory.slow.test.ts: works off a backlog in batches. Its arguments: the URLs of Postgres and Redis.

const [postgres, redis] = process.argv.slice(2) as [string, string]
const pool = new pg.Pool({ connectionString: postgres, max: 4 })
const consumer = createConsumer({
  ...{ redis, db: pool, group: GROUP, concurrency: 4 },
  logger: pino({ level: 'warn' }),
}).onBatch(
  Happened,
  async (events, { tx }) => {
    await tx.query('insert into effect (event, n) select * from unnest($1::text[], $2::int[])', [
      events.map(({ id }) => id),
      events.map(({ data }) => data.n),
    ])
  },
  { size: 250 },
)
const stop = new AbortController()
process.once('SIGTERM', () => stop.abort())
await consumer.run({ signal: stop.signal })
await pool.end()
