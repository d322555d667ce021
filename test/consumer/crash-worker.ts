import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { createConsumer } from '../../src/consumer/index.js'
import { until } from '../../testkit/services/until.js'
import { Happened } from './happened.js'

/*
 * A worker as a process of its own, for crashed.test.ts: the event with n = 0 kills it, and takes along whatever runs beside.
 * Each call of a handler is told on standard output as it begins. WORKER_BEGUN: calls that must have begun before it dies.
 */

const { WORKER_REDIS = '', WORKER_POSTGRES = '', WORKER_BEGUN = '1' } = process.env
const pool = new pg.Pool({ connectionString: WORKER_POSTGRES, max: 8 })

let begun = 0

const consumer = createConsumer({
  ...{ redis: WORKER_REDIS, db: pool, group: 'billing', concurrency: 8, claimAfter: '300ms' },
  logger: { debug() {}, info() {}, warn() {}, error() {} },
}).on(Happened, async (event, { tx, attempt }) => {
  process.stdout.write(`${JSON.stringify({ n: event.data.n, attempt })}\n`)
  begun += 1
  await tx.query('insert into effect (event, n) values ($1, $2)', [event.id, event.data.n])
  // Those beside it are under way when it dies.
  if (event.data.n !== 0) return pause(300)
  await until(() => begun >= Number(WORKER_BEGUN))
  process.kill(process.pid, 'SIGKILL')
})
await consumer.start()
