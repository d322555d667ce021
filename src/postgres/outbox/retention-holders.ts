import type pg from 'pg'

/** A lineage that keeps rows from being emptied, of the table's own or of another database's relay. */
export interface RetentionHolder {
  lineage: string
  slot: string
  /** As `outrider.bucket_refusal()` has it. */
  reason: 'gap' | 'checkpoint' | 'slot'
  /** In milliseconds, since it was set up or adopted. */
  ageMs: number
}

/** More are not named. */
const MAX_HOLDERS = 20

/**
 * Which lineages of Outrider's own table keep rows of so many milliseconds from being emptied, and why: the same questions as
 * `outrider.bucket_refusal()` asks, without a bucket.
 */
export async function retentionHolders(client: pg.ClientBase, windowMs: number): Promise<RetentionHolder[]> {
  const { rows } = await client.query<RetentionHolder>(
    `select * from (
       select l.lineage::text, l.slot,
         case when exists (
                select from outrider.incident as i
                where i.lineage = l.lineage and kind in ('gap', 'foreign') and closed_at is null and repaired_at is null
              ) then 'gap'
              when proof.lsn is null then 'checkpoint'
              when s.confirmed_flush_lsn is null or s.confirmed_flush_lsn < proof.lsn then 'slot' end as reason,
         extract(epoch from clock_timestamp() - l.created_at)::float8 * 1000 as "ageMs"
       from outrider.lineage as l
         left join lateral (
           select lsn from outrider.checkpoint as c
           where c.lineage = l.lineage and taken_at <= clock_timestamp() - $1 * interval '1 millisecond'
           order by lsn desc limit 1
         ) as proof on true
         left join pg_replication_slots as s
           on s.slot_name::text = l.slot and s.database = current_database() and s.wal_status <> 'lost'
       where l.retired_at is null
         and (l.outbox_table = 'outrider.outbox' or to_regclass('outrider.outbox')::oid = any (l.outbox_oids))
     ) as held
     where reason is not null order by slot limit ${MAX_HOLDERS}`,
    [windowMs],
  )
  return rows
}
