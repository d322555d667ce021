import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { createConsumer } from '../../src/consumer/index.js'
import { Happened } from './happened.js'

/*
 * A worker as a process of its own, for crashed.test.ts: the event with n = 0 kills it, and takes along whatever runs beside.
 * Each call of a handler is told on standard output as it begins.
 */

const { WORKER_REDIS = '', WORKER_POSTGRES = '' } = process.env
const pool = new pg.Pool({ connectionString: WORKER_POSTGRES, max: 8 })

const consumer = createConsumer({
  ...{ redis: WORKER_REDIS, db: pool, group: 'billing', concurrency: 8, claimAfter: '300ms' },
  logger: { debug() {}, info() {}, warn() {}, error() {} },
}).on(Happened, async (event, { tx, attempt }) => {
  process.stdout.write(`${JSON.stringify({ n: event.data.n, attempt })}\n`)
  await tx.query('insert into effect (event, n) values ($1, $2)', [event.id, event.data.n])
  // Long enough for the others to be under way.
  await pause(event.data.n === 0 ? 100 : 300)
  if (event.data.n === 0) process.kill(process.pid, 'SIGKILL')
})
await consumer.start()
