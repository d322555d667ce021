import type pg from 'pg'
import type { Bucket } from './buckets.js'

/** How much Outrider's own table holds. */
export interface OutboxGrowth {
  /** As the statistics of Postgres have it: no row is counted. */
  rows: number
  /** In milliseconds, since a checkpoint showed that the oldest row is published; undefined: none has. */
  oldestMs: number | undefined
}

/** The oldest row of a bucket is among those of its first pages: rows are only added. */
const FIRST_PAGES = 8

/**
 * Reads statistics, and the first pages of each bucket. `created_at` does not count: a writer may set it. A crash of the server loses
 * the number of rows since the last ANALYZE.
 */
export async function readGrowth(
  client: pg.ClientBase,
  lineage: string,
  buckets: readonly Bucket[],
): Promise<OutboxGrowth> {
  const filled = buckets.filter(({ isEmpty }) => !isEmpty).map(({ bucket }) => bucket)
  if (filled.length === 0) return { rows: 0, oldestMs: undefined }
  const counted = await client.query<{ rows: number }>(
    `select sum(greatest(pg_stat_get_live_tuples(oid), reltuples, 0))::float8 as rows from pg_class
     where oid = any ($1::text[]::regclass[])`,
    [filled.map((bucket) => `outrider.outbox_${bucket}`)],
  )
  const firsts = filled.map(
    (bucket) =>
      `(select txid from outrider.outbox where bucket = ${bucket} and ctid < '(${FIRST_PAGES},0)' order by txid limit 1)`,
  )
  const { rows } = await client.query<{ ms: number | null }>(
    `with oldest as materialized (select txid from (${firsts.join(' union all ')}) as first order by txid limit 1)
     select extract(epoch from clock_timestamp() - min(taken_at))::float8 * 1000 as ms
     from outrider.checkpoint, oldest where lineage = $1 and pg_visible_in_snapshot(txid, snapshot)`,
    [lineage],
  )
  return { rows: counted.rows[0]!.rows, oldestMs: rows[0]?.ms ?? undefined }
}
