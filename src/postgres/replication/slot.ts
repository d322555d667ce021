import type pg from 'pg'
import { type Lsn, parseLsn } from '../client/lsn.js'

/** A replication slot as `pg_replication_slots` shows it; sizes in bytes. */
export interface Slot {
  plugin: string | null
  active: boolean
  /** The process that reads it; undefined: none does. */
  activePid: number | undefined
  confirmedFlush: Lsn | undefined
  /** `reserved`, `extended`, `unreserved` or `lost`. */
  walStatus: string | null
  /** WAL that the slot holds back. */
  retainedBytes: number
  /** WAL written since the slot's confirmed position. */
  lagBytes: number
  /** WAL that can still be written before the slot may be lost; undefined where nothing bounds it. */
  safeBytes: number | undefined
  /** The end of WAL written by the server. */
  serverLsn: Lsn
}

/** Undefined when this database has no slot of that name. */
export async function readSlot(client: pg.ClientBase, name: string): Promise<Slot | undefined> {
  const { rows } = await client.query(
    `select plugin, active, active_pid, confirmed_flush_lsn::text, wal_status, safe_wal_size, pg_current_wal_insert_lsn()::text as server,
            coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::float8 as retained,
            greatest(0, coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), confirmed_flush_lsn), 0))::float8 as lag
       from pg_catalog.pg_replication_slots
      where slot_name = $1 and slot_type = 'logical' and database = current_database()`,
    [name],
  )
  const row = rows[0]
  if (!row) return undefined
  return {
    plugin: row.plugin,
    active: row.active,
    activePid: row.active_pid ?? undefined,
    confirmedFlush: row.confirmed_flush_lsn === null ? undefined : parseLsn(row.confirmed_flush_lsn),
    walStatus: row.wal_status,
    retainedBytes: row.retained,
    lagBytes: row.lag,
    safeBytes: row.safe_wal_size === null ? undefined : Number(row.safe_wal_size),
    serverLsn: parseLsn(row.server),
  }
}
