import type pg from 'pg'
import { formatLsn, type Lsn, parseLsn } from './lsn.js'

/**
 * A snapshot with an LSN taken after it. A commit record is written before its transaction becomes visible, so once
 * everything below `lsn` is confirmed, every row that the snapshot sees has been published.
 */
export interface Checkpoint {
  lsn: Lsn
  snapshot: string
}

/** The statement's snapshot is taken before its functions run: the LSN is the later of the two. */
export async function takeCheckpoint(client: pg.ClientBase): Promise<Checkpoint> {
  const { rows } = await client.query(
    'select pg_current_snapshot()::text as snapshot, pg_current_wal_insert_lsn()::text as lsn',
  )
  return { snapshot: rows[0].snapshot, lsn: parseLsn(rows[0].lsn) }
}

/** To be called only when the slot is confirmed at or past `checkpoint.lsn`. */
export async function saveCheckpoint(client: pg.ClientBase, lineage: string, checkpoint: Checkpoint): Promise<void> {
  await client.query(
    'insert into outrider.checkpoint (lineage, lsn, snapshot) values ($1, $2, $3) on conflict do nothing',
    [lineage, formatLsn(checkpoint.lsn), checkpoint.snapshot],
  )
}
