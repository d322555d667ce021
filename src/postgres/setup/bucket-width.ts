import type pg from 'pg'

/** Inserts go to one bucket for at least as long. */
const MIN_SECONDS = 4 * 3_600
/** Buckets that hold what `retention` keeps: the others are in use, or about to be. */
const KEPT_BUCKETS = 18

/** For how many seconds inserts go to one bucket, so that rows can be kept for so many milliseconds. Whole hours. Pure. */
export const bucketSecondsFor = (retention: number): number =>
  Math.max(MIN_SECONDS, Math.ceil(retention / KEPT_BUCKETS / 3_600_000) * 3_600)

/**
 * Makes the buckets of Outrider's own table as wide as `retention`, in milliseconds, needs. Takes no lock of the table: a bucket may have
 * older rows as well for a while, and is emptied once all of them may go.
 */
export async function setBucketWidth(client: pg.ClientBase, retention: number): Promise<void> {
  const seconds = bucketSecondsFor(retention)
  const { rows } = await client.query<{ seconds: number }>('select outrider.bucket_seconds() as seconds')
  if (rows[0]!.seconds === seconds) return
  await client.query(
    `create or replace function outrider.bucket_seconds() returns integer language sql immutable parallel safe return ${seconds}`,
  )
}
