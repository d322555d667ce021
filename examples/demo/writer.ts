import { publish } from 'outrider'
import type pg from 'pg'
import { STREAMS, type Webhook } from './webhooks.js'

/**
 * The number of subjects, which all writers share. A subject stands for a hook of GitHub: its events are in one stream,
 * in order.
 */
export const SUBJECTS = 200

const MOST_IN_ONE_TRANSACTION = 12
const ROLLED_BACK = 0.1

/** What all writers did so far. */
export class Tally {
  committed = 0
  rolledBack = 0
  transactions = 0
  rollbacks = 0
  bytes = 0
  /** By event id: when its COMMIT was sent, in milliseconds of the clock. */
  readonly sent = new Map<string, number>()
}

export interface WriterOptions {
  writer: number
  /** How many events to commit. */
  events: number
  webhooks: Map<string, Webhook[]>
  tally: Tally
  random(): number
  signal: AbortSignal
}

interface Delivery {
  subject: string
  webhook: Webhook
}

/**
 * Commits events in transactions of different sizes, some of which roll back. With each event it inserts a row into
 * `truth`, which the checks compare with the streams.
 */
export async function write(client: pg.Client, options: WriterOptions): Promise<void> {
  const { tally, random, signal } = options
  for (let left = options.events; left > 0 && !signal.aborted; ) {
    const deliveries = draw(options, Math.min(left, 1 + Math.floor(random() * MOST_IN_ONE_TRANSACTION)))
    await client.query('begin')
    const seqs = await lockSubjects(client, deliveries)
    const ids: string[] = []
    for (const { subject, webhook } of deliveries) {
      ids.push(await publish(client, webhook.event, { subject, data: webhook.data }))
    }
    await recordTruth(client, options.writer, options.events - left, deliveries, ids, seqs)
    if (random() < ROLLED_BACK) {
      await client.query('rollback')
      tally.rollbacks += 1
      tally.rolledBack += deliveries.length
      continue
    }
    const sent = Date.now()
    await client.query('commit')
    left -= deliveries.length
    tally.transactions += 1
    tally.committed += deliveries.length
    for (const id of ids) tally.sent.set(id, sent)
    for (const { webhook } of deliveries) tally.bytes += webhook.bytes
  }
}

function draw({ random, webhooks }: WriterOptions, count: number): Delivery[] {
  return Array.from({ length: count }, () => {
    const subject = Math.floor(random() * SUBJECTS)
    // A subject stays in one stream: that is what order means.
    const kinds = webhooks.get(STREAMS[subject % STREAMS.length] as string) as Webhook[]
    return { subject: `subject-${subject}`, webhook: kinds[Math.floor(random() * kinds.length)] as Webhook }
  })
}

/**
 * The number of each delivery within its subject. The row lock is held until the commit, so these numbers are in the
 * order of commits. Rows are locked in the order of their names, so that writers do not deadlock.
 */
async function lockSubjects(client: pg.Client, deliveries: Delivery[]): Promise<number[]> {
  const { rows } = await client.query<{ name: string; seq: number }>(
    'select name, seq from subject where name = any($1) order by name for update',
    [deliveries.map(({ subject }) => subject)],
  )
  const last = new Map(rows.map(({ name, seq }) => [name, seq]))
  return deliveries.map(({ subject }) => {
    const seq = (last.get(subject) as number) + 1
    last.set(subject, seq)
    return seq
  })
}

async function recordTruth(
  client: pg.Client,
  writer: number,
  counter: number,
  deliveries: Delivery[],
  ids: string[],
  seqs: number[],
): Promise<void> {
  await client.query(
    `with event as (
       select * from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[]) with ordinality
         as e (id, stream, subject, seq, sha, n)
     ), counted as (
       update subject set seq = e.seq from (select subject, max(seq) as seq from event group by subject) e
         where name = e.subject
     )
     insert into truth select id, $6, $7 + n, stream, subject, seq, sha from event`,
    [
      ids,
      deliveries.map(({ webhook }) => webhook.event.stream),
      deliveries.map(({ subject }) => subject),
      seqs,
      deliveries.map(({ webhook }) => webhook.sha),
      writer,
      counter,
    ],
  )
}
