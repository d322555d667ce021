import type pg from 'pg'
import { formatLsn, type Lsn } from '../client/lsn.js'
import { BUCKETS } from '../outbox/buckets.js'
import { isUndisputed } from './checkpoints.js'

interface Own {
  lineage: string
  session: string
}

/** May this session trim? It is the newest, and no gap is open. */
export async function mayTrim(client: pg.ClientBase, { lineage, session }: Own): Promise<boolean> {
  const { rowCount } = await client.query(
    `select from outrider.lineage as l where lineage = $1 and ${isUndisputed('l', '$2')}`,
    [lineage, session],
  )
  return rowCount === 1
}

/** How far a stream was trimmed. */
export interface Trimmed {
  /** Of the first event that stays, or of the last one that was appended where none stays. */
  lsn: Lsn
  /** The id of the first event that stays. */
  first: string | undefined
}

/**
 * Records that a repair is not to put back what was trimmed of a stream: the rows that the newest checkpoint at or before that LSN sees.
 * It only rises.
 *
 * An entry does not say in which database its LSN is one: several may have one source, also those that were restored one after the
 * other. So the first event must be a row of this table, and one that the checkpoint does not see.
 * While it is one that `outrider republish` has appended, the horizon stays: a loss then puts back rows that were finished, and the row
 * itself.
 */
export async function saveHorizon(client: pg.ClientBase, own: Own, key: string, trimmed: Trimmed): Promise<void> {
  await client.query(
    `insert into outrider.horizon as h (lineage, stream_key, lsn, snapshot)
     select l.lineage, $3, newest.lsn, newest.snapshot
       from outrider.lineage as l, lateral (
         select lsn, snapshot from outrider.checkpoint as c where c.lineage = l.lineage and c.lsn <= $4
         order by lsn desc limit 1
       ) as newest
      where l.lineage = $1 and ${isUndisputed('l', '$2')} and ($5::uuid is null or exists (
        select from generate_series(0, ${BUCKETS.length - 1}) as bucket join outrider.outbox as o using (bucket)
        where o.id = $5 and not pg_visible_in_snapshot(o.txid, newest.snapshot)))
     on conflict (lineage, stream_key) do update
       set lsn = excluded.lsn, snapshot = excluded.snapshot, updated_at = clock_timestamp() where excluded.lsn > h.lsn`,
    [own.lineage, own.session, key, formatLsn(trimmed.lsn), trimmed.first ?? null],
  )
}
