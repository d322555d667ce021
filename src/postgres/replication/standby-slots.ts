import type pg from 'pg'

/** A slot that `synchronized_standby_slots` names and that confirms nothing. */
export interface SilentStandbySlot {
  name: string
  problem: 'missing' | 'logical' | 'invalidated' | 'inactive'
}

/**
 * The slots named in `synchronized_standby_slots` (PostgreSQL 17 and later) that cannot confirm. While there is one, Postgres
 * sends nothing through slots with `failover = true`.
 * https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONIZED-STANDBY-SLOTS
 */
export async function readSilentStandbySlots(client: pg.ClientBase): Promise<SilentStandbySlot[]> {
  // As JSON, so that older servers accept the question. Slot names hold nothing but letters, digits and underscores.
  const { rows } = await client.query<SilentStandbySlot>(
    `select * from (
       select name, case when slot is null then 'missing'
                         when slot ->> 'slot_type' <> 'physical' then 'logical'
                         when slot ->> 'wal_status' = 'lost' or slot ->> 'invalidation_reason' is not null then 'invalidated'
                         when not (slot ->> 'active')::boolean then 'inactive' end as problem
         from regexp_split_to_table(current_setting('synchronized_standby_slots', true), '[^a-z0-9_]+') as name
         left join (select slot_name, to_jsonb(s) as slot from pg_replication_slots as s) as found on slot_name = name
        where name <> '') as named
      where problem is not null`,
  )
  return rows
}
