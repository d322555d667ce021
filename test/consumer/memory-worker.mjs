import pg from 'pg'
import { z } from 'zod'
import { createConsumer } from '../../dist/consumer/index.js'
import { defineEvent } from '../../dist/index.js'

// The program of memory-payload.slow.test.ts, as it is published, because a loader would need memory of its own. Two of three events
// whose text says so fail while the table `downstream` is empty. Its arguments: the URLs of Postgres and Redis, its name, and `prefetch`, if
// not the default.

const [postgres, redis, name, prefetch] = process.argv.slice(2)
const pool = new pg.Pool({ connectionString: postgres, max: 10 })
const data = z.object({ n: z.number(), text: z.string(), fails: z.boolean().default(false) })
const log = (...line) => console.error(...line)
const consumer = createConsumer({
  ...{ redis, db: pool, group: 'billing', name, claimAfter: '2s', backoff: { min: '10s', max: '20s' } },
  ...(prefetch === undefined ? {} : { prefetch: Number(prefetch) }),
  logger: { debug() {}, info() {}, warn() {}, error: log },
}).on(defineEvent({ stream: 'things', type: 'thing.happened', version: 1, data }), async (event, { tx }) => {
  const { rows } = await tx.query('select 1 from downstream')
  if (event.data.fails && event.data.n % 3 > 0 && rows.length === 0) throw new Error('503 from downstream')
  await tx.query('insert into effect (event, n) values ($1, $2)', [event.id, event.data.n])
})
const stop = new AbortController()
process.once('SIGTERM', () => stop.abort())
await consumer.run({ signal: stop.signal })
await pool.end()
