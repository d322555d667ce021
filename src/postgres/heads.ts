import type pg from 'pg'
import type { Position } from '../event/position.js'
import { formatLsn, type Lsn } from './lsn.js'

/** The last event of one lineage in one stream, as Redis has it beside the stream and Postgres knows it to be safe. */
export interface Head {
  position: Position
  event: string
  /** The stream entry's id. */
  entry: string
}

/** The saved heads of a lineage, by stream key. */
export async function loadHeads(client: pg.ClientBase, lineage: string): Promise<Map<string, Head>> {
  const { rows } = await client.query(
    'select stream_key, position, event_id as event, entry_id as entry from outrider.head where lineage = $1',
    [lineage],
  )
  return new Map(rows.map(({ stream_key, ...head }) => [stream_key, head]))
}

/**
 * Saves what is about to be confirmed, in one statement and so in one transaction. Values only rise: a relay that was
 * frozen and comes back writes nothing older over what its successor saved.
 */
export async function saveProgress(
  client: pg.ClientBase,
  progress: { lineage: string; session: string; confirmed: Lsn; heads: ReadonlyMap<string, Head> },
): Promise<void> {
  const heads = [...progress.heads]
  await client.query(
    `with saved as (
       insert into outrider.head as h (lineage, session, stream_key, position, event_id, entry_id)
       select $1, $2, * from unnest($3::text[], $4::text[], $5::text[], $6::text[])
       on conflict (lineage, stream_key) do update
         set position = excluded.position, event_id = excluded.event_id, entry_id = excluded.entry_id,
             session = excluded.session, updated_at = clock_timestamp()
         where excluded.position > h.position
     )
     update outrider.lineage set confirmed_lsn = $7
      where lineage = $1 and confirmed_lsn < $7`,
    [
      progress.lineage,
      progress.session,
      heads.map(([key]) => key),
      heads.map(([, head]) => head.position),
      heads.map(([, head]) => head.event),
      heads.map(([, head]) => head.entry),
      formatLsn(progress.confirmed),
    ],
  )
}
