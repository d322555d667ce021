import type pg from 'pg'
import type { Head } from '../event/head.js'
import { formatLsn, type Lsn } from './lsn.js'

/** Heads that one statement loads: few statements, because a server without statistics may sort all heads for each. */
const LOADED_AT_ONCE = 2_000

/** Heads that one statement saves. */
const SAVED_AT_ONCE = 500

const SELECT = 'select stream_key, position, event_id as event, entry_id as entry from outrider.head where lineage = $1'

/** The saved heads of a lineage whose stream keys come next after `after`, by stream key; none when it was the last. */
export async function loadHeadsAfter(
  client: pg.ClientBase,
  lineage: string,
  after: string,
): Promise<Map<string, Head>> {
  const page = `${SELECT} and stream_key > $2 order by stream_key limit ${LOADED_AT_ONCE}`
  return headsOf(await client.query(page, [lineage, after]))
}

/** The saved heads of these streams, by stream key. */
export async function loadHeads(
  client: pg.ClientBase,
  lineage: string,
  keys: readonly string[],
): Promise<Map<string, Head>> {
  return headsOf(await client.query(`${SELECT} and stream_key = any ($2)`, [lineage, keys]))
}

const headsOf = ({ rows }: pg.QueryResult): Map<string, Head> =>
  new Map(rows.map(({ stream_key, ...head }) => [stream_key, head]))

export interface SavedProgress {
  lineage: string
  session: string
  confirmed: Lsn
  heads: ReadonlyMap<string, Head>
}

/**
 * Saves what is about to be confirmed: the heads, and `confirmed` in the same statement as the last of them. Values only
 * rise: a relay that was frozen and comes back writes nothing older over what its successor saved.
 */
export async function saveProgress(client: pg.ClientBase, progress: SavedProgress): Promise<void> {
  const heads = [...progress.heads]
  while (heads.length > SAVED_AT_ONCE) {
    await saveHeads(client, progress, heads.splice(0, SAVED_AT_ONCE), null)
  }
  await saveHeads(client, progress, heads, progress.confirmed)
}

/** `confirmed`: null where more heads are to be saved before it. */
async function saveHeads(
  client: pg.ClientBase,
  { lineage, session }: SavedProgress,
  heads: readonly [key: string, head: Head][],
  confirmed: Lsn | null,
): Promise<void> {
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
      lineage,
      session,
      heads.map(([key]) => key),
      heads.map(([, head]) => head.position),
      heads.map(([, head]) => head.event),
      heads.map(([, head]) => head.entry),
      confirmed === null ? null : formatLsn(confirmed),
    ],
  )
}
