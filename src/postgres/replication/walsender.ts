import type pg from 'pg'

/** What a walsender does at a moment, and what decoding for its slot has written to disk since its statistics began. */
export interface WalsenderActivity {
  waitEventType: string | null
  waitEvent: string | null
  spilledBytes: number
}

/**
 * Undefined: there is no such walsender any more. A role sees its own sessions without further rights.
 * https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE
 */
export async function readWalsender(
  client: pg.ClientBase,
  { pid, slot }: { pid: number; slot: string },
): Promise<WalsenderActivity | undefined> {
  const { rows } = await client.query<WalsenderActivity>(
    `select wait_event_type as "waitEventType", wait_event as "waitEvent",
            coalesce((select spill_bytes from pg_stat_replication_slots where slot_name = $2), 0)::float8 as "spilledBytes"
       from pg_stat_activity where pid = $1 and backend_type = 'walsender'`,
    [pid, slot],
  )
  return rows[0]
}
