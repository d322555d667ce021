import { setTimeout as pause } from 'node:timers/promises'
import { type Consumer, createConsumer } from 'outrider/consumer'
import pg from 'pg'
import type { Counter } from 'prom-client'
import type { GroupName } from './groups.js'
import { webhookEvents } from './webhooks.js'

/**
 * A worker of the group that its argument names, as a program. It runs until SIGTERM and prints each `Told` as a line of
 * JSON.
 */

export interface Told {
  started?: true
  /** The number of duplicates since the last line: deliveries of events that the group had processed. */
  duplicates?: number
}

/** Milliseconds between two lines. If a worker is killed, what it counted since its last line is missing. */
const TELL_EVERY = 50

const group = process.argv[2] as GroupName
const pool = new pg.Pool({ connectionString: process.env.OUTRIDER_POSTGRES_URL, max: 6 })

const effect = (tx: pg.PoolClient, events: readonly { id: string }[]) =>
  tx.query('insert into effect select $1, id from unnest($2::uuid[]) as id', [group, events.map(({ id }) => id)])

const handlers: Record<GroupName, (consumer: Consumer<pg.PoolClient>) => void> = {
  billing: (consumer) => consumer.on(webhookEvents(), (event, { tx }) => effect(tx, [event])),
  search: (consumer) => consumer.onBatch(webhookEvents(), (events, { tx }) => effect(tx, events)),
}

const consumer = createConsumer({
  redis: process.env.OUTRIDER_REDIS_URL ?? '',
  db: pool,
  group,
  // Short, so that the events of a killed worker are taken over soon.
  claimAfter: '2s',
})
handlers[group](consumer)

const tell = (told: Told) => process.stdout.write(`${JSON.stringify(told)}\n`)
let duplicates = 0
async function tellDuplicates(): Promise<void> {
  const counter = consumer.registry.getSingleMetric('outrider_consumer_duplicates_total') as Counter
  const count = (await counter.get()).values.reduce((sum, { value }) => sum + value, 0)
  if (count > duplicates) tell({ duplicates: count - duplicates })
  duplicates = count
}

const stop = new AbortController()
for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => stop.abort())
await consumer.start()
tell({ started: true })
while (!stop.signal.aborted) {
  await pause(TELL_EVERY, undefined, { signal: stop.signal }).catch(() => {})
  await tellDuplicates()
}
await consumer.stop()
await tellDuplicates()
await pool.end()
