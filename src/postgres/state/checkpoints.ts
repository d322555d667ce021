import type pg from 'pg'
import { formatLsn, type Lsn, parseLsn } from '../client/lsn.js'
import { isBeingAltered } from '../replication/publication.js'

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

/** SQL: no session of this lineage began after this one, and no gap is open. `lineage`: the name of its row; `session`: a parameter. */
export const isUndisputed = (lineage: string, session: string): string => `(
  not exists (
    select from outrider.session as other
    where other.lineage = ${lineage}.lineage and other.number > (select number from outrider.session where session = ${session})
  )
  and not exists (
    select from outrider.incident as i
    where i.lineage = ${lineage}.lineage and kind = 'gap' and closed_at is null and repaired_at is null
  ))`

/**
 * To be called only when the slot is confirmed at or past `checkpoint.lsn`. Saves nothing where it may be untrue: the
 * publication is not the known one, or will not be once a commit is visible, so rows may not have been decoded; another session leads; a gap is open; or the
 * snapshot sees a transaction of which it is not known yet that its rows are in the streams.
 */
export async function saveCheckpoint(
  client: pg.ClientBase,
  lineage: string,
  session: string,
  checkpoint: Checkpoint,
): Promise<void> {
  await client.query(
    `insert into outrider.checkpoint (lineage, lsn, snapshot)
     select lineage, $3, $4 from outrider.lineage as l
     where lineage = $1 and publication_state = outrider.publication_state(publication)
       and not ${isBeingAltered('publication')}
       and ${isUndisputed('l', '$2')}
       and not exists (
         select from outrider.repair as r, unnest(unsettled) as xid
         where r.lineage = l.lineage and pg_visible_in_snapshot(xid, $4)
       )
     on conflict do nothing`,
    [lineage, session, formatLsn(checkpoint.lsn), checkpoint.snapshot],
  )
}

/** All checkpoints of the last day are kept, then one an hour. */
const ALL_FOR = '24 hours'
/** Beyond the window by which rows are emptied. */
const MARGIN = '4 days'

/**
 * Removes checkpoints that only an earlier one is needed beside: of each hour the newest stays. Those that are older than the window, in
 * milliseconds, and a margin go, but for the newest of them; `undefined`: rows stay, and so do they. The first one of a lineage always
 * stays: an audit knows by it what was published before.
 */
export async function pruneCheckpoints(
  client: pg.ClientBase,
  lineage: string,
  windowMs: number | undefined,
): Promise<number> {
  const { rowCount } = await client.query(
    `with known as (
       select lsn, taken_at, min(lsn) over () as first,
         lead(taken_at) over (order by lsn) as next,
         clock_timestamp() - interval '${ALL_FOR}' as thinned,
         clock_timestamp() - $2 * interval '1 millisecond' - interval '${MARGIN}' as gone
       from outrider.checkpoint where lineage = $1
     )
     delete from outrider.checkpoint as c using known as k
     where c.lineage = $1 and c.lsn = k.lsn and k.lsn <> k.first and k.next is not null
       and (k.next < k.gone or k.taken_at < k.thinned and date_trunc('hour', k.next) = date_trunc('hour', k.taken_at))`,
    [lineage, windowMs ?? null],
  )
  return rowCount ?? 0
}

/** Which rows are in a stream, and since when there may be others. */
export interface Bound {
  snapshot: string | null
  since: Date | null
}

/** The clocks of Postgres and Redis may differ by so much. */
const CLOCK_SKEW = '10 minutes'

/**
 * For each LSN the newest checkpoint at or before it; nulls where there is none, or no LSN. The snapshot was taken some time
 * before its checkpoint was saved, but after the one before that was.
 */
export async function newestCheckpoints(
  client: pg.ClientBase,
  lineage: string,
  lsns: readonly (Lsn | null)[],
): Promise<Bound[]> {
  const { rows } = await client.query<Bound>(
    `select newest.snapshot::text, previous.taken_at - interval '${CLOCK_SKEW}' as since
     from unnest($2::pg_lsn[]) with ordinality as required (lsn, place)
       left join lateral (
         select c.lsn, c.snapshot from outrider.checkpoint as c where lineage = $1 and c.lsn <= required.lsn
         order by c.lsn desc limit 1
       ) as newest on true
       left join lateral (
         select taken_at from outrider.checkpoint as c where lineage = $1 and c.lsn < newest.lsn order by c.lsn desc limit 1
       ) as previous on true
     order by place`,
    [lineage, lsns.map((lsn) => (lsn === null ? null : formatLsn(lsn)))],
  )
  return rows
}
