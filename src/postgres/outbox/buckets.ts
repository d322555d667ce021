import type pg from 'pg'

/** Partitions of Outrider's own table: numbers of `bucket`. Before migration 007 there were eight of them. */
export const BUCKETS: readonly number[] = Array.from({ length: 24 }, (_, bucket) => bucket)

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
