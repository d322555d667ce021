import type pg from 'pg'
import type { Head } from '../../event/head.js'
import { type Lsn, parseLsn } from '../client/lsn.js'
import { inTransaction } from '../client/transaction.js'
import { resetFloors } from './consumer-groups.js'
import { saveRepairedHeads } from './heads.js'
import { REPAIRABLE } from './incident-reasons.js'
import { boundByRepair } from './incidents.js'
import { holdsLock, lockLost } from './sessions.js'

/** A repair of a lineage's open gaps: a row of `outrider.repair`. */
export interface Repair {
  timeline: number
  /** Rows that it sees are put back from the table, all others come from WAL. */
  snapshot: string
  /** What commits here or later is not visible in the snapshot. */
  until: Lsn
  /** Transactions that were open then, of which it is not known yet that their rows are in the streams. */
  unsettled: readonly string[]
  /** The gap concerns all streams: rows were not decoded. */
  everyStream: boolean
  /** Of the session that began it last. */
  session: string
  beganAt: Date
  /** How often it began to append before. */
  attempts: number
  /** What was missing when it was looked at last; undefined: that is not known, or no longer. */
  found: { rows: number; bytes: number } | undefined
}

interface RepairRow {
  began_at: Date
  session: string
  timeline: number
  snapshot: string
  until: string
  unsettled: string[]
  every_stream: boolean
  attempts: number
  found: number | null
  bytes: number | null
}

const columns = (
  found: string,
) => `session::text as session, began_at, timeline, snapshot::text, until_lsn::text as until,
  unsettled::text[] as unsettled, every_stream, attempts, (${found})::float8 as found, bytes::float8 as bytes`

/** A count of missing rows that is older than this, or than the end of a gap, may be too high. */
const FOUND = `case when began_at > clock_timestamp() - interval '1 hour' and not exists (
  select from outrider.incident where lineage = repair.lineage and kind = 'gap' and closed_at > began_at) then found end`

const fromRow = ({ until, began_at, every_stream, found, bytes, ...same }: RepairRow): Repair => ({
  ...same,
  found: found === null || bytes === null ? undefined : { rows: found, bytes },
  until: parseLsn(until),
  beganAt: began_at,
  everyStream: every_stream,
})

export async function loadRepair(client: pg.ClientBase, lineage: string): Promise<Repair | undefined> {
  const { rows } = await client.query<RepairRow>(`select ${columns(FOUND)} from outrider.repair where lineage = $1`, [
    lineage,
  ])
  return rows[0] && fromRow(rows[0])
}

/**
 * Takes the snapshot that divides the rows, with what follows from it, and records it in place of an earlier attempt's. Each
 * statement is a transaction of its own: the LSN and the next transaction id must be younger than the snapshot.
 *
 * `unsettled` are the transactions below that id which the snapshot does not see: those that it names, and those from its
 * upper bound on, which began before another one ended that has a lower id. `walsender`: the process that holds the lock.
 *
 * `incidents`: the gaps. Where one of them is closed or repaired meanwhile, this repair must not take the place of the one before: what
 * this snapshot sees would count as put back. It waits for a session that records lost streams: see recordLostStreams.
 */
export async function beginRepair(
  client: pg.ClientBase,
  repair: {
    lineage: string
    session: string
    timeline: number
    everyStream: boolean
    walsender: number
    incidents: readonly string[]
  },
): Promise<Repair> {
  const one = async (sql: string): Promise<string> => (await client.query<{ value: string }>(sql)).rows[0]!.value
  const snapshot = await one('select pg_current_snapshot()::text as value')
  const until = await one('select pg_current_wal_insert_lsn()::text as value')
  const next = await one('select pg_current_xact_id()::text as value')
  const { rows } = await client.query<RepairRow>(
    `with recorded as materialized (
       select from outrider.lineage where lineage = $1 for update
     )
     insert into outrider.repair as r (lineage, session, timeline, every_stream, snapshot, until_lsn, unsettled)
     select $1, $2, $3, $4, $5::pg_snapshot, $6::pg_lsn, coalesce(array_agg(xid), '{}')
     from (
       select pg_snapshot_xip($5::pg_snapshot) as xid
       union
       select xid::text::xid8 from generate_series(pg_snapshot_xmax($5::pg_snapshot)::text::bigint, $7::bigint - 1) as xid
     ) as open
     having exists (select from recorded) and ${holdsLock('$8')} and not exists (
       select from unnest($9::bigint[]) as gap left join outrider.incident as i on i.id = gap and closed_at is null and repaired_at is null
       where i.id is null)
     on conflict (lineage) do update set session = excluded.session, timeline = excluded.timeline,
       every_stream = excluded.every_stream, snapshot = excluded.snapshot, until_lsn = excluded.until_lsn,
       unsettled = excluded.unsettled, put_back = 0, found = null, bytes = null,
       began_at = clock_timestamp()
     returning ${columns('found')}`,
    [
      repair.lineage,
      repair.session,
      repair.timeline,
      repair.everyStream,
      snapshot,
      until,
      next,
      repair.walsender,
      repair.incidents,
    ],
  )
  if (!rows[0])
    throw new Error(
      'The lock of the slot is not held any longer, or a gap was closed or repaired while its repair began.',
    )
  return fromRow(rows[0])
}

/** The repair of a session. Once another session has begun one, nothing of this one is written. */
export type OwnRepair = Pick<PutBack, 'lineage' | 'session'>

export async function saveFound(client: pg.ClientBase, own: OwnRepair, found: number, bytes: number): Promise<void> {
  const { rowCount } = await client.query(
    'update outrider.repair set found = $3, bytes = $4 where lineage = $1 and session = $2',
    [own.lineage, own.session, found, bytes],
  )
  if (rowCount === 0) throw repairEnded()
}

/** From here on rows are put back, so that fewer are missing than were found. */
export async function countAttempt(client: pg.ClientBase, own: OwnRepair): Promise<void> {
  const { rowCount } = await client.query(
    'update outrider.repair set attempts = attempts + 1, bytes = null where lineage = $1 and session = $2',
    [own.lineage, own.session],
  )
  if (rowCount === 0) throw repairEnded()
}

export async function savePutBack(client: pg.ClientBase, own: OwnRepair, putBack: number): Promise<void> {
  const { rowCount } = await client.query(
    'update outrider.repair set put_back = $3 where lineage = $1 and session = $2',
    [own.lineage, own.session, putBack],
  )
  if (rowCount === 0) throw repairEnded()
}

export const repairEnded = (): Error =>
  new Error('Another session leads, or has begun to repair, or a person has closed the gap: this repair ends.')

export interface PutBack {
  lineage: string
  session: string
  heads: ReadonlyMap<string, Head>
  /** Streams that Redis refuses: the next event finds them as new ones. */
  refused: readonly string[]
  incidents: readonly string[]
  putBack: number
  /** The process that holds the lock. */
  walsender: number
}

/**
 * Saves the heads as the repair has left them, wherever they were before, and marks the gaps as repaired, in one transaction.
 * The heads must be durable.
 */
export async function savePutBackHeads(client: pg.ClientBase, work: PutBack): Promise<void> {
  const { lineage, session, heads, refused, incidents, putBack, walsender } = work
  await inTransaction(client, async () => {
    await savePutBack(client, work, putBack)
    await requireInGap(client, work)
    // A session that leads since then may have moved the confirmed LSN, from where WAL is read.
    const { rowCount } = await client.query(`select where ${holdsLock('$1')}`, [walsender])
    if (rowCount === 0) throw lockLost()
    await saveRepairedHeads(client, { lineage, session, heads })
    await resetFloors(client, lineage, [...heads.keys()])
    await client.query('delete from outrider.head where lineage = $1 and stream_key = any ($2)', [lineage, refused])
    await client.query(
      'update outrider.incident set repaired_at = clock_timestamp() where id = any ($1) and closed_at is null',
      [incidents],
    )
    await client.query('delete from outrider.present where lineage = $1', [lineage])
  })
}

/**
 * Rows are looked for in the streams that the gaps name. A session that was frozen may have taken a stream out of its gap, as one that is
 * whole, after its bound was read: nothing was put back into it, and its head is at the place.
 */
async function requireInGap(client: pg.ClientBase, { heads, incidents }: PutBack): Promise<void> {
  const { rows } = await client.query<{ key: string }>(
    `select key from unnest($1::text[]) as key
     where not exists (select from outrider.gap_stream where incident = any ($2) and stream_key = key) limit 1`,
    [[...heads.keys()], incidents],
  )
  if (rows[0])
    throw new Error(`Stream ${rows[0].key} was taken out of its gap while it was repaired: the repair begins again.`)
}

/** These transactions are settled: none of their rows is missing. Nothing is written where another session has begun a repair since. */
export async function saveSettled(client: pg.ClientBase, own: OwnRepair, xids: readonly string[]): Promise<void> {
  await client.query(
    `update outrider.repair set unsettled = array(
       select xid from unnest(unsettled) as xid where xid::text <> all ($2::text[])
     ) where lineage = $1 and session = $3`,
    [own.lineage, xids, own.session],
  )
}

/**
 * Closes the gaps that are repaired and settled. Resolves with their ids. None where another session has begun a repair since: this one
 * was frozen while it awaited transactions.
 */
export async function closeRepaired(client: pg.ClientBase, { lineage, session }: OwnRepair): Promise<string[]> {
  return inTransaction(client, async () => {
    const repair = 'select from outrider.repair where lineage = $1 and session = $2 for update'
    if ((await client.query(repair, [lineage, session])).rowCount === 0) return []
    const { rows } = await client.query<{ id: string }>(
      `update outrider.incident set closed_at = clock_timestamp(), closed_by = current_user,
         resolution = 'repaired: ' || coalesce((select put_back from outrider.repair where lineage = $1), 0)
           || ' events put back'
       where lineage = $1 and kind = 'gap' and closed_at is null and repaired_at is not null returning id::text`,
      [lineage],
    )
    // A gap that is open needs its row: a repair that begins again must know that it does.
    await client.query(
      `delete from outrider.repair where lineage = $1 and not exists (
         select from outrider.incident where lineage = $1 and kind = 'gap' and closed_at is null and reason = any ($2))`,
      [lineage, [...REPAIRABLE]],
    )
    return rows.map(({ id }) => id)
  })
}

/**
 * Gaps that are repaired and wait for transactions to settle are open again: a row of one is missing, or another snapshot takes
 * the place of theirs. `walsender`: the process that holds the lock; a session that was frozen opens none, which another one streams by.
 * Resolves with the reason of one; undefined: none is open again.
 */
export async function reopenRepaired(
  client: pg.ClientBase,
  lineage: string,
  walsender: number,
): Promise<string | undefined> {
  const { rows } = await client.query<{ id: string; reason: string }>(
    `update outrider.incident set repaired_at = null
     where lineage = $1 and kind = 'gap' and closed_at is null and repaired_at is not null and ${holdsLock('$2')}
     returning id::text, reason`,
    [lineage, walsender],
  )
  await boundByRepair(
    client,
    lineage,
    rows.map(({ id }) => id),
  )
  return rows[0]?.reason
}

/**
 * The repair whose transactions are awaited. Undefined, and forgotten, where no gap of it is left: a person has accepted what was
 * missing then. A gap that is open needs it.
 */
export async function loadSettling(client: pg.ClientBase, lineage: string): Promise<Repair | undefined> {
  await client.query(
    `delete from outrider.repair where lineage = $1 and not exists (
       select from outrider.incident where lineage = $1 and kind = 'gap' and closed_at is null and reason = any ($2))`,
    [lineage, [...REPAIRABLE]],
  )
  return loadRepair(client, lineage)
}

/** Which of these transactions have ended, and how; a prepared one has not. */
export async function readEnded(
  client: pg.ClientBase,
  xids: readonly string[],
): Promise<{ committed: string[]; aborted: string[] }> {
  // Null: so old that the server has forgotten it; its rows decide.
  const { rows } = await client.query<{ xid: string; status: string | null }>(
    'select xid, pg_xact_status(xid::xid8) as status from unnest($1::text[]) as xid',
    [xids],
  )
  const of = (which: (status: string | null) => boolean) => rows.filter((r) => which(r.status)).map(({ xid }) => xid)
  return {
    committed: of((status) => status === 'committed' || status === null),
    aborted: of((status) => status === 'aborted'),
  }
}
