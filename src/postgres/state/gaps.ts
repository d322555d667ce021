import type pg from 'pg'
import type { Head } from '../../event/head.js'
import { inTransaction } from '../client/transaction.js'
import type { GapReason } from './incident-reasons.js'
import { openIncident } from './incidents.js'
import { repairEnded } from './repairs.js'
import { holdsLock, lockLost } from './sessions.js'

/** A stream that a gap concerns: a row of `outrider.gap_stream`. */
export interface GapStream {
  key: string
  /** Rows that this snapshot sees are in the stream, as long as its head is `head`; null: not known of any row. */
  snapshot: string | null
  /** No entry of another row is older, by the clocks of Postgres and Redis; null: any may be. */
  since: Date | null
  /** Position and entry of the head as it was found, with a space between; null where that is of no use. */
  head: string | null
  /** What was expected and what was found. */
  detail: object
}

/** How `GapStream.head` names a head. */
export const headText = ({ position, entry }: Head): string => `${position} ${entry}`

/** Rows that one statement inserts. */
const INSERTED_AT_ONCE = 500
/** Rows that one statement reads. */
const STREAMS_AT_ONCE = 1_000

/** In place of a head: the snapshot is that of a repair, and holds as long as nothing is lost since. */
export const REPAIRED = 'repaired'

/**
 * Records that Redis has lost events of these streams: in the open gap of the lineage, or in a new one. One that was
 * repaired already is open again, for all of its streams: what was put back may be lost, too. Returns its id.
 *
 * A session that was frozen since it looked must not drop a bound that the repair of the next one goes by: nothing is written where
 * `walsender`, a process id, does not hold the lock. A repair begins only after the transaction of a session that still held it.
 */
export async function recordLostStreams(
  client: pg.ClientBase,
  { lineage, walsender }: { lineage: string; walsender: number },
  streams: readonly GapStream[],
): Promise<string> {
  return inTransaction(client, async () => {
    await client.query('select from outrider.lineage where lineage = $1 for key share', [lineage])
    const id = await openIncident(client, { kind: 'gap', reason: 'stream_behind', lineage })
    for (let i = 0; i < streams.length; i += INSERTED_AT_ONCE) {
      await insertStreams(client, { id, walsender }, streams.slice(i, i + INSERTED_AT_ONCE))
    }
    return id
  })
}

/**
 * A stream that is there already may have been lost once more: its bound holds if the head is as it was found, and the stream still
 * has what the head says.
 */
async function insertStreams(
  client: pg.ClientBase,
  { id, walsender }: { id: string; walsender: number },
  streams: readonly GapStream[],
): Promise<void> {
  const { rowCount } = await client.query(
    `insert into outrider.gap_stream as g (incident, stream_key, snapshot, since, head, detail)
     select $1, stream.* from unnest($2::text[], $3::pg_snapshot[], $4::timestamptz[], $5::text[], $6::jsonb[]) as stream
     where ${holdsLock('$7')}
     on conflict (incident, stream_key) do update set detail = excluded.detail,
       snapshot = case when g.head = excluded.head and excluded.snapshot is not null then g.snapshot end`,
    [
      id,
      streams.map(({ key }) => key),
      streams.map(({ snapshot }) => snapshot),
      streams.map(({ since }) => since),
      streams.map(({ head }) => head),
      streams.map(({ detail }) => JSON.stringify(detail)),
      walsender,
    ],
  )
  if (rowCount === 0) throw lockLost()
}

/** A gap that nothing was put right of yet. */
export interface OpenGap {
  id: string
  reason: string
  detail: object
  /** A person has asked for its repair, with at most so many events. */
  repairMax: number | undefined
}

/** The open gaps of a lineage whose events are not put back, oldest first. */
export async function openGaps(client: pg.ClientBase, lineage: string): Promise<OpenGap[]> {
  const { rows } = await client.query<{ id: string; reason: string; detail: object; repair_max: string | null }>(
    `select id::text, reason, detail, repair_max::text from outrider.incident as i
     where lineage = $1 and kind = 'gap' and closed_at is null and repaired_at is null order by i.id`,
    [lineage],
  )
  return rows.map(({ repair_max, ...gap }) => ({
    ...gap,
    repairMax: repair_max === null ? undefined : Number(repair_max),
  }))
}

/**
 * An earlier version opened a gap for each stream, and named it in the incident: from here on all name their streams in
 * `outrider.gap_stream`.
 */
export async function nameLostStreams(client: pg.ClientBase, lineage: string): Promise<void> {
  await client.query(
    `insert into outrider.gap_stream (incident, stream_key, detail)
     select id, stream, detail from outrider.incident
     where lineage = $1 and kind = 'gap' and reason = 'stream_behind' and closed_at is null and stream is not null
     on conflict do nothing`,
    [lineage],
  )
}

/** Streams of open gaps, in pages; of those with a `reason`. */
export async function* lostStreams(
  client: pg.ClientBase,
  lineage: string,
  reason?: GapReason,
): AsyncGenerator<(GapStream & { incident: string })[]> {
  for (let after = ['0', '']; ; ) {
    const { rows } = await client.query<GapStream & { incident: string }>(
      `select incident::text, stream_key as key, g.snapshot::text, since, g.head, g.detail
       from outrider.gap_stream as g join outrider.incident as i on i.id = incident
       where lineage = $1 and closed_at is null and repaired_at is null
         and (incident, stream_key) > ($2::bigint, $3::text) and ($4::text is null or reason = $4)
       order by incident, stream_key limit ${STREAMS_AT_ONCE}`,
      [lineage, ...after, reason ?? null],
    )
    if (rows.length > 0) yield rows
    if (rows.length < STREAMS_AT_ONCE) return
    const last = rows.at(-1)!
    after = [last.incident, last.key]
  }
}

/** The keys of all streams of open gaps. */
export async function* lostStreamKeys(client: pg.ClientBase, lineage: string): AsyncGenerator<string> {
  for await (const page of lostStreams(client, lineage)) for (const { key } of page) yield key
}

/**
 * Takes streams that are whole again out of a gap, and closes it when none is left. Resolves with whether it was closed. Changes nothing
 * once a repair has begun to append: this session may have been frozen since it looked.
 */
export async function removeFoundAgain(client: pg.ClientBase, id: string, keys: readonly string[]): Promise<boolean> {
  return inTransaction(client, async () => {
    await client.query(
      `delete from outrider.gap_stream where incident = $1 and stream_key = any ($2) and not exists (
         select from outrider.repair as r join outrider.incident as i on i.lineage = r.lineage where i.id = $1 and attempts > 0)`,
      [id, keys],
    )
    const { rowCount } = await client.query(
      `update outrider.incident set closed_at = clock_timestamp(), closed_by = current_user, resolution = 'found again'
       where id = $1 and closed_at is null and not exists (select from outrider.gap_stream where incident = $1)`,
      [id],
    )
    return rowCount !== 0
  })
}

/**
 * Adds streams to a gap, or replaces their bounds. The bound that a repair has set is a later one, and stays. One that did not
 * hold once is never set again: since then a repair may have put back a part of the stream. Resolves with the times since when
 * entries of other rows may be there, by stream key.
 *
 * Rejects where another session has begun to repair, which may have read the bounds already: it reads the ids of as many entries as
 * they say, and must not look for more rows afterwards. Its beginning waits for this statement. The incident is locked first, as by
 * `closeIncident`.
 */
export async function boundStreams(
  client: pg.ClientBase,
  { id, session }: { id: string; session: string },
  streams: readonly Pick<GapStream, 'key' | 'snapshot' | 'since'>[],
): Promise<Map<string, Date | null>> {
  const since = new Map<string, Date | null>()
  for (let i = 0; i < streams.length; i += INSERTED_AT_ONCE) {
    const batch = streams.slice(i, i + INSERTED_AT_ONCE)
    const { rows } = await client.query<Pick<GapStream, 'key' | 'snapshot' | 'since'>>(
      `with gap as materialized (
         select lineage from outrider.incident where id = $1 for key share
       ), own as materialized (
         select from outrider.repair join gap using (lineage) where session = $5 for share of repair
       )
       insert into outrider.gap_stream as g (incident, stream_key, snapshot, since)
       select $1, stream.* from own, unnest($2::text[], $3::pg_snapshot[], $4::timestamptz[]) as stream
       on conflict (incident, stream_key) do update set
         snapshot = case when g.snapshot is null or excluded.snapshot is null then null
                         when g.head = '${REPAIRED}' then g.snapshot else excluded.snapshot end,
         since = case when g.head = '${REPAIRED}' then g.since else excluded.since end
       returning stream_key as key, snapshot::text, since`,
      [
        id,
        batch.map(({ key }) => key),
        batch.map(({ snapshot }) => snapshot),
        batch.map(({ since }) => since),
        session,
      ],
    )
    if (rows.length === 0) throw repairEnded()
    for (const row of rows) since.set(row.key, row.snapshot === null ? null : row.since)
  }
  return since
}

/** For how long closed incidents are kept, with the streams of a gap: for a person alone. */
export const CLOSED_FOR = '90 days'

/** Forgotten by one statement. */
const PRUNED_AT_ONCE = 10_000

/** Forgets streams of gaps that were closed long ago: some of them. Resolves with how many. The incidents stay. */
export async function pruneGapStreams(client: pg.ClientBase): Promise<number> {
  const { rowCount } = await client.query(
    `delete from outrider.gap_stream where ctid = any (array(
       select g.ctid from outrider.gap_stream as g join outrider.incident as i on i.id = incident
       where closed_at < now() - interval '${CLOSED_FOR}' limit ${PRUNED_AT_ONCE}))`,
  )
  return rowCount ?? 0
}

/** The stream keys of the gaps of a lineage that are repaired and wait for transactions to settle. */
export async function settlingStreams(client: pg.ClientBase, lineage: string): Promise<Set<string>> {
  const { rows } = await client.query<{ key: string }>(
    `select distinct stream_key as key from outrider.gap_stream join outrider.incident as i on i.id = incident
     where lineage = $1 and closed_at is null and repaired_at is not null`,
    [lineage],
  )
  return new Set(rows.map(({ key }) => key))
}
