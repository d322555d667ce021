import type pg from 'pg'
import { sqlState } from '../client/transaction.js'

/** Partitions of Outrider's own table: numbers of `bucket`. Before migration 007 there were eight of them. */
export const BUCKETS: readonly number[] = Array.from({ length: 24 }, (_, bucket) => bucket)

/** What the buckets reach back, whatever `retention` says: the others are the one that inserts go to, and some room. */
export const MAX_WINDOW_BUCKETS = 20

/** The default of `bucket` since migration 007. */
export const BUCKET_DEFAULT = 'outrider.bucket()'

/**
 * Do inserts go to the buckets of migration 007? Undefined: there is no table of this name. Also for a role that may not use the
 * schema.
 */
export async function hasBucketDefault(client: pg.ClientBase): Promise<boolean | undefined> {
  const { rows } = await client.query<{ isSet: boolean }>(
    `select pg_get_expr(adbin, adrelid) in ('outrider.bucket()', 'bucket()') as "isSet"
     from pg_attrdef join pg_attribute as a on a.attrelid = adrelid and a.attnum = adnum
       join pg_class as c on c.oid = adrelid join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = 'outrider' and c.relname = 'outbox' and attname = 'bucket'`,
  )
  return rows[0]?.isSet
}

export interface Bucket {
  bucket: number
  /** With its indexes. */
  bytes: number
  isEmpty: boolean
}

export interface BucketFacts {
  /** By the server's clock, in milliseconds since 1970. */
  now: number
  /** By the clock of this process when that was read: `performance.now()`. */
  readAt: number
  /** The bucket that inserts go to. */
  current: number
  /** For so many milliseconds. */
  bucketMs: number
  /** Inserts go to the buckets of migration 007. */
  isSetUp: boolean
  /** The database was set up before there was retention. */
  predatesRetention: boolean
  /** Rows that are younger have all been kept, in milliseconds since 1970; undefined: none was emptied. */
  emptiedUntil: number | undefined
  buckets: readonly Bucket[]
}

export async function readBuckets(client: pg.ClientBase): Promise<BucketFacts> {
  const { rows } = await client.query<
    Omit<BucketFacts, 'isSetUp' | 'buckets' | 'emptiedUntil' | 'readAt'> & { emptiedUntil: number | null }
  >(
    `select floor(extract(epoch from clock_timestamp()) * 1000)::float8 as now, outrider.bucket() as current,
       outrider.bucket_seconds() * 1000::float8 as "bucketMs",
       exists (select from outrider.lineage where predates_retention) as "predatesRetention",
       (select floor(extract(epoch from max(until)) * 1000)::float8 from outrider.emptied) as "emptiedUntil"`,
  )
  const readAt = performance.now()
  const sizes = await client.query<Bucket>(
    `select substring(relname from '[0-9]+$')::integer as bucket, pg_total_relation_size(oid)::float8 as bytes,
       pg_relation_size(oid) = 0 as "isEmpty"
     from pg_inherits join pg_class on oid = inhrelid
     where inhparent = to_regclass('outrider.outbox') and relname ~ '^outbox_[0-9]+$' order by 1`,
  )
  const { emptiedUntil, ...facts } = rows[0]!
  return {
    ...facts,
    readAt,
    emptiedUntil: emptiedUntil ?? undefined,
    isSetUp: (await hasBucketDefault(client)) === true,
    buckets: sizes.rows,
  }
}

/** What `outrider.empty_bucket()` answers: `emptied`, or why not. */
export type BucketAnswer =
  | 'emptied'
  | 'empty'
  | 'current'
  | 'missing'
  | 'setup'
  | 'index'
  | 'gap'
  | 'rejected'
  | 'checkpoint'
  | 'slot'
  | 'unproven'
  | 'in_use'
  | 'slow'

const LOCK_NOT_AVAILABLE = '55P03'
const QUERY_CANCELED = '57014'
/** The lock keeps readers of the table waiting for as long, in milliseconds, at most. */
const MAX_LOCKED_MS = 1_000

/**
 * Empties a bucket whose rows the newest checkpoints that are at least so old prove to be published. Asks first without a lock, which may
 * take long where the index lacks a summary. `client`: without a limit to how long a statement runs, and in no transaction. Each statement
 * commits by itself: a process that stops in between holds no lock.
 */
export async function emptyBucket(client: pg.ClientBase, bucket: number, windowMs: number): Promise<BucketAnswer> {
  const call = async (name: string) => {
    const { rows } = await client.query<{ refusal: BucketAnswer | null }>(
      `select outrider.${name}_bucket($1::smallint, clock_timestamp() - $2 * interval '1 millisecond') as refusal`,
      [bucket, windowMs],
    )
    return rows[0]!.refusal
  }
  try {
    const refusal = await call('examine')
    if (refusal !== null) return refusal
    await client.query(`set statement_timeout = ${MAX_LOCKED_MS}`)
    return (await call('empty')) ?? 'emptied'
  } catch (error) {
    if (sqlState(error) === LOCK_NOT_AVAILABLE) return 'in_use'
    if (sqlState(error) === QUERY_CANCELED) return 'slow'
    throw error
  } finally {
    await client.query('set statement_timeout = 0').catch(() => {})
  }
}
