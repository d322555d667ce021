import type pg from 'pg'
import { formatLsn, type Lsn } from '../client/lsn.js'
import { isUndisputed } from './checkpoints.js'

/**
 * Records, before a stream is trimmed, that a repair is not to put back what goes: the rows that the newest checkpoint at or before
 * `lsn` sees. It only rises. `lsn`: of the first event that stays; undefined: nothing new is known, and the horizon stays.
 *
 * Resolves with whether the stream may be trimmed: this session is the newest, and no gap is open.
 */
export async function saveHorizon(
  client: pg.ClientBase,
  own: { lineage: string; session: string },
  key: string,
  lsn: Lsn | undefined,
): Promise<boolean> {
  const { rows } = await client.query<{ undisputed: boolean }>(
    `with undisputed as materialized (
       select lineage from outrider.lineage as l where lineage = $1 and ${isUndisputed('l', '$2')}
     ), saved as (
       insert into outrider.horizon as h (lineage, stream_key, lsn, snapshot)
       select lineage, $3, newest.lsn, newest.snapshot from undisputed, lateral (
         select lsn, snapshot from outrider.checkpoint as c where c.lineage = undisputed.lineage and c.lsn <= $4
         order by lsn desc limit 1
       ) as newest
       on conflict (lineage, stream_key) do update
         set lsn = excluded.lsn, snapshot = excluded.snapshot, updated_at = clock_timestamp() where excluded.lsn > h.lsn
     )
     select exists (select from undisputed) as undisputed`,
    [own.lineage, own.session, key, lsn === undefined ? null : formatLsn(lsn)],
  )
  return rows[0]!.undisputed
}
