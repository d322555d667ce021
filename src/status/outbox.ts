import type pg from 'pg'
import { sqlState } from '../postgres/client/transaction.js'
import { BUCKETS } from '../postgres/outbox/buckets.js'

/** What of Outrider's own outbox table is not confirmed yet, and how large the table is. */
export interface OutboxStatus {
  bytes: number
  /** What Postgres' statistics say. */
  estimatedRows: number
  /** Undefined where counting took too long, or where row level security hides rows from the role. */
  backlog: Backlog | undefined
}

/** Rows that are not known to be durable in Redis. */
export interface Backlog {
  rows: number
  oldest: Date | undefined
}

/** What is proven to be published. */
export interface Proof {
  /** Text form of a `pg_snapshot`; undefined where there is no checkpoint to rely on. */
  snapshot: string | undefined
  /** When it was taken, or the lineage began. */
  since: Date
}

/** Counting is a courtesy, in milliseconds. */
const COUNT_MS = 1_000
const QUERY_CANCELED = '57014'
const INSUFFICIENT_PRIVILEGE = '42501'
/** A transaction that was open for longer before the checkpoint may hide a row. */
const MAX_TRANSACTION_MS = 3_600_000

export async function readOutbox(client: pg.ClientBase, lineage: string, proof: Proof): Promise<OutboxStatus> {
  const { rows } = await client.query<{ bytes: number; estimatedRows: number }>(
    `select sum(pg_total_relation_size(c.oid))::float8 as bytes, sum(greatest(reltuples, 0))::float8 as "estimatedRows"
     from pg_inherits join pg_class as c on c.oid = inhrelid where inhparent = 'outrider.outbox'::regclass`,
  )
  return { ...rows[0]!, backlog: await countBacklog(client, lineage, proof) }
}

/**
 * Rows that the newest checkpoint does not see, but for those that were inserted before the saved head of their stream:
 * `seq` is nearly the order of commits. By the primary key, since ids begin with their time.
 */
async function countBacklog(client: pg.ClientBase, lineage: string, proof: Proof): Promise<Backlog | undefined> {
  await client.query(`set statement_timeout = ${COUNT_MS}`)
  try {
    const { rows } = await client.query<{ rows: number; oldest: Date | null }>(
      `with candidate as materialized (
         select stream, seq, created_at from outrider.outbox
         where bucket = any ($4) and id >= $3 and ($2::pg_snapshot is null or not pg_visible_in_snapshot(txid, $2))
       ), published as (
         select split_part(stream_key, ':', 1) as stream, max(seq) as seq
         from outrider.head join outrider.outbox as o on o.bucket = any ($4) and o.id = nullif(event_id, '')::uuid
         where lineage = $1 and split_part(stream_key, ':', 1) = any (array(select distinct c.stream from candidate as c))
         group by 1
       )
       select count(*)::float8 as rows, min(created_at) as oldest from candidate left join published using (stream)
       where published.seq is null or candidate.seq > published.seq`,
      [lineage, proof.snapshot, firstIdAt(proof.since.getTime() - MAX_TRANSACTION_MS), BUCKETS],
    )
    const { rows: count, oldest } = rows[0]!
    return { rows: count, oldest: oldest ?? undefined }
  } catch (error) {
    if (![QUERY_CANCELED, INSUFFICIENT_PRIVILEGE].includes(sqlState(error) ?? '')) throw error
    return undefined
  } finally {
    await client.query('reset statement_timeout').catch(() => undefined)
  }
}

/** The lowest UUID of version 7 of a millisecond. */
export function firstIdAt(milliseconds: number): string {
  const hex = Math.max(0, Math.floor(milliseconds)).toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`
}
