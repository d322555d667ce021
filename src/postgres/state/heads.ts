import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { batchesOf } from '../../base/in-batches.js'
import type { Head } from '../../event/head.js'
import { ZERO_POSITION } from '../../event/position.js'
import { formatLsn, type Lsn } from '../client/lsn.js'
import { resetFloors } from './consumer-groups.js'

/** Heads that one statement loads: few statements, because a server without statistics may sort all heads for each. */
const LOADED_AT_ONCE = 2_000

/** Heads that one statement saves. */
const SAVED_AT_ONCE = 500

const SELECT = `select stream_key, position, event_id as event, entry_id as entry, repaired_by::float8 as "repairedBy"
  from outrider.head where lineage = $1`

/** A head that is known to be durable. Its position is zero where a person has accepted what the stream has lost. */
export interface SavedHead extends Head {
  /** The number of the session that repaired the stream last; null: none did. */
  repairedBy: number | null
}

/** The saved heads of a lineage whose stream keys come next after `after`, by stream key; none when it was the last. */
export async function loadHeadsAfter(
  client: pg.ClientBase,
  lineage: string,
  after: string,
): Promise<Map<string, SavedHead>> {
  const page = `${SELECT} and stream_key > $2 order by stream_key limit ${LOADED_AT_ONCE}`
  return headsOf(await client.query(page, [lineage, after]))
}

/** The saved heads of these streams, by stream key. */
export async function loadHeads(
  client: pg.ClientBase,
  lineage: string,
  keys: readonly string[],
): Promise<Map<string, SavedHead>> {
  return headsOf(await client.query(`${SELECT} and stream_key = any ($2)`, [lineage, keys]))
}

const headsOf = ({ rows }: pg.QueryResult): Map<string, SavedHead> =>
  new Map(rows.map(({ stream_key, ...head }) => [stream_key, head]))

/**
 * What these streams have lost is accepted: whatever Redis has of them is what they have to have from here on. A session that takes
 * such a head over saves it as it was found. `which`: an SQL condition on `stream_key`.
 */
export async function acceptHeads(
  client: pg.ClientBase,
  lineage: string,
  which: string,
  values: readonly unknown[],
): Promise<void> {
  const { rows } = await client.query<{ key: string }>(
    `update outrider.head set position = '${ZERO_POSITION}', event_id = '', entry_id = '0-0', repaired_by = null,
       updated_at = clock_timestamp()
     where lineage = $1 and (${which}) returning stream_key as key`,
    [lineage, ...values],
  )
  const keys = rows.map(({ key }) => key)
  await resetFloors(client, lineage, keys)
}

export interface SavedProgress {
  lineage: string
  session: string
  confirmed: Lsn
  heads: ReadonlyMap<string, Head>
}

/**
 * Saves what is about to be confirmed: the heads, and `confirmed` in the same statement as the last of them. Values only
 * rise: a relay that was frozen and comes back writes nothing older over what its successor saved, nor over what a later
 * session repaired.
 */
export async function saveProgress(client: pg.ClientBase, progress: SavedProgress): Promise<void> {
  const { heads, confirmed, ...by } = progress
  let last: SavedBatch = []
  for (const batch of batchesOf(heads, SAVED_AT_ONCE)) {
    if (last.length > 0) await saveHeads(client, by, last)
    last = batch
  }
  // Removed, or hidden by a policy: what is confirmed and not saved would look like a slot that was advanced by hand.
  if ((await saveHeads(client, by, last, { confirmed })) > 0) return
  throw new OutriderError(
    `Expected lineage ${by.lineage} in outrider.lineage, found no row that this role may see and update. Nothing is confirmed. ` +
      'Restore the row, or disable row level security on the table.',
  )
}

/** Saves heads as a repair has left them, wherever they were before. To be called in a transaction that holds the lock. */
export async function saveRepairedHeads(
  client: pg.ClientBase,
  { heads, ...by }: Omit<SavedProgress, 'confirmed'>,
): Promise<void> {
  for (const batch of batchesOf(heads, SAVED_AT_ONCE)) await saveHeads(client, by, batch, { isRepair: true })
}

type SavedBatch = readonly [key: string, head: Head][]

/** Resolves with how many lineages `confirmed` was saved of: without it none. */
async function saveHeads(
  client: pg.ClientBase,
  { lineage, session }: Pick<SavedProgress, 'lineage' | 'session'>,
  heads: SavedBatch,
  { confirmed, isRepair = false }: { confirmed?: Lsn; isRepair?: boolean } = {},
): Promise<number> {
  const { rowCount } = await client.query(
    `with own as (
       select (select number from outrider.session where session = $2) as number
     ), saved as (
       insert into outrider.head as h (lineage, session, repaired_by, stream_key, position, event_id, entry_id)
       select $1, $2, case when $8 then number end, head.*
       from own, unnest($3::text[], $4::text[], $5::text[], $6::text[]) as head
       on conflict (lineage, stream_key) do update
         set position = excluded.position, event_id = excluded.event_id, entry_id = excluded.entry_id, session = excluded.session,
             repaired_by = coalesce(excluded.repaired_by, h.repaired_by), updated_at = clock_timestamp()
         where $8 or (excluded.position > h.position and coalesce(h.repaired_by <= (select number from own), true))
     )
     update outrider.lineage set confirmed_lsn = greatest(confirmed_lsn, $7)
      where lineage = $1 and $7::pg_lsn is not null`,
    [
      lineage,
      session,
      heads.map(([key]) => key),
      heads.map(([, head]) => head.position),
      heads.map(([, head]) => head.event),
      heads.map(([, head]) => head.entry),
      confirmed === undefined ? null : formatLsn(confirmed),
      isRepair,
    ],
  )
  return rowCount ?? 0
}
