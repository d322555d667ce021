import type pg from 'pg'
import { batchesOf } from '../../base/in-batches.js'
import { inTransaction } from '../client/transaction.js'
import type { RowFilter } from '../outbox/row-filter.js'
import { holdsLock, lockLost, SERVER_COMMIT } from './sessions.js'

export type RequestKind = 'republish' | 'audit'
export type RequestState = 'collecting' | 'waiting' | 'running' | 'done' | 'refused' | 'cancelled'

/** Which rows are appended again, and where. */
export interface RequestArguments extends RowFilter {
  /** So many rows of `outrider.request_event` name the events. */
  ids?: number
  /** The stream that they are appended to; undefined: theirs. */
  to?: string
}

/** A request, and how far it is. */
export interface Request {
  id: string
  kind: RequestKind
  arguments: RequestArguments
  state: RequestState
  /** Rows that were to be appended when it began; null: it has not begun. */
  found: number | null
  appended: number
  gone: number
  rejected: number
  /** Why it was refused. */
  message: string | null
  requestedAt: Date
  endedAt: Date | null
}

const COLUMNS = `id::text, kind, arguments, state, found::float8 as found, appended::float8 as appended, gone::float8 as gone,
  rejected::float8 as rejected, message, requested_at as "requestedAt", ended_at as "endedAt"`

/** Events, by stream; an empty stream: of every stream that has this id. */
export type RequestedEvent = readonly [id: string, stream: string]

const INSERTED_AT_ONCE = 5_000

/** Begins a request whose events are named afterwards: nothing happens before `releaseRequest`. Resolves with its id. */
export async function openRequest(client: pg.ClientBase, lineage: string, kind: RequestKind): Promise<string> {
  const { rows } = await client.query<{ id: string }>(
    "insert into outrider.request (lineage, kind, state) values ($1, $2, 'collecting') returning id::text",
    [lineage, kind],
  )
  return rows[0]!.id
}

export async function addRequestedEvents(
  client: pg.ClientBase,
  request: string,
  events: Iterable<RequestedEvent>,
): Promise<void> {
  for (const batch of batchesOf(events, INSERTED_AT_ONCE)) {
    await client.query(
      `insert into outrider.request_event (request, id, stream)
       select $1, * from unnest($2::uuid[], $3::text[]) on conflict do nothing`,
      [request, batch.map(([id]) => id), batch.map(([, stream]) => stream)],
    )
  }
}

/** From here on the relay may take it up. */
export async function releaseRequest(client: pg.ClientBase, request: string, what: RequestArguments): Promise<void> {
  await client.query(
    `update outrider.request set arguments = $2, state = 'waiting', updated_at = clock_timestamp() where id = $1 and state = 'collecting'`,
    [request, JSON.stringify(what)],
  )
}

/** It ends: what was appended by then stays. False: it had ended before, or there is none. */
export async function cancelRequest(client: pg.ClientBase, lineage: string, request: string): Promise<boolean> {
  const { rowCount } = await client.query(
    `update outrider.request set state = 'cancelled', message = 'cancelled by ' || session_user, ended_at = clock_timestamp(),
       updated_at = clock_timestamp()
     where id = $1 and lineage = $2 and ended_at is null`,
    [request, lineage],
  )
  if (rowCount === 0) return false
  await forgetParts(client, request)
  return true
}

export async function readRequest(
  client: pg.ClientBase,
  lineage: string,
  request: string,
): Promise<Request | undefined> {
  const { rows } = await client.query<Request>(
    `select ${COLUMNS} from outrider.request where id = $1 and lineage = $2`,
    [request, lineage],
  )
  return rows[0]
}

/** Why a request does not begin, as a sentence with what leads on. */
export async function readRequestDelay(client: pg.ClientBase, lineage: string, request: string): Promise<string> {
  const { rows } = await client.query<{
    gap: string | null
    reason: string | null
    earlier: string | null
    led: boolean
  }>(
    `select gap.id::text as gap, gap.reason,
       (select min(id)::text from outrider.request where lineage = $1 and id < $2 and ended_at is null and state <> 'collecting') as earlier,
       coalesce((select active from pg_catalog.pg_replication_slots as s where s.slot_name::text = l.slot and s.database = current_database()),
         false) as led
     from outrider.lineage as l left join lateral (
       select id, reason from outrider.incident as i
       where i.lineage = l.lineage and kind in ('gap', 'foreign') and closed_at is null and repaired_at is null order by id limit 1
     ) as gap on true
     where l.lineage = $1`,
    [lineage, request],
  )
  const { gap, reason, earlier, led } = rows[0]!
  if (gap !== null)
    return `incident ${gap} (${reason}) is open: the request begins once it is repaired or closed; see outrider incidents show ${gap}`
  if (!led) return 'no relay reads the slot: the request begins once one does; see outrider status'
  if (earlier !== null) return `request ${earlier} is executed first`
  return 'the relay has not begun it: it must be of this version, its role needs outrider_relay, and Redis must take events; see its log'
}

/** The oldest one that is not executed yet; undefined: there is none. */
export async function nextRequest(client: pg.ClientBase, lineage: string): Promise<string | undefined> {
  const { rows } = await client.query<{ id: string }>(
    `select id::text from outrider.request
     where lineage = $1 and ended_at is null and state in ('waiting', 'running') order by id limit 1`,
    [lineage],
  )
  return rows[0]?.id
}

/** The session that executes a request. */
export interface Executor {
  lineage: string
  session: string
  /** The process that holds the lock: without it nothing is written. */
  walsender: number
}

/** A request as a session takes it up. */
export interface RunningRequest extends Request {
  /** Rows that it does not see are not part of the request. */
  snapshot: string
  through: string
  /** The number of the session. */
  session: number
}

/** Takes up a request: for the first time, or where another session has left it. Undefined: it has ended. A standby that is promoted knows it. */
export async function beginRequest(
  client: pg.ClientBase,
  { lineage, session, walsender }: Executor,
  request: string,
): Promise<RunningRequest | undefined> {
  const { rows } = await inTransaction(client, async () => {
    await client.query(SERVER_COMMIT)
    return client.query<RunningRequest>(
      `with taken as (
       update outrider.request set state = 'running', session = $3, snapshot = coalesce(snapshot, pg_current_snapshot()),
         began_at = coalesce(began_at, clock_timestamp()), updated_at = clock_timestamp()
       where id = $1 and lineage = $2 and ended_at is null and state in ('waiting', 'running') and ${holdsLock('$4')}
       returning *
     )
     select ${COLUMNS}, snapshot::text, through::text, (select number::float8 from outrider.session as s where s.session = $3) as session
     from taken`,
      [request, lineage, session, walsender],
    )
  })
  return rows[0]
}

/** A stream that a request appends to: a row of `outrider.request_stream`. */
export interface RequestStream {
  key: string
  /** Events of the request can only be behind this entry. */
  from: string
  /** Rows of the stream up to this `seq` are in it. */
  through: bigint
}

/**
 * The streams that a request has appended to. What a later session has repaired may have lost all that was appended: it begins again
 * there, and leaves out what it finds.
 */
export async function loadRequestStreams(
  client: pg.ClientBase,
  executor: Executor,
  request: RunningRequest,
): Promise<RequestStream[]> {
  await inTransaction(client, () => forgetRepaired(client, executor, request))
  const { rows } = await client.query<{ key: string; from: string; through: string }>(
    `select stream_key as key, from_entry as from, through::text from outrider.request_stream where request = $1 order by stream_key`,
    [request.id],
  )
  return rows.map(({ key, from, through }) => ({ key, from, through: BigInt(through) }))
}

async function forgetRepaired(
  client: pg.ClientBase,
  { lineage, walsender }: Executor,
  request: RunningRequest,
): Promise<void> {
  const { rowCount } = await client.query(
    `update outrider.request_stream as r set from_entry = first_entry, through = 0, session = $3
     from outrider.head as h
     where request = $1 and h.lineage = $2 and h.stream_key = r.stream_key and h.repaired_by > r.session and ${holdsLock('$4')}`,
    [request.id, lineage, request.session, walsender],
  )
  if (!rowCount) return
  // Rows that were rejected are tried again.
  const { rows } = await client.query<Pick<RunningRequest, 'appended' | 'rejected' | 'through'>>(
    `update outrider.request set through = 0, appended = 0, rejected = 0 where id = $1
     returning through::text, appended::float8 as appended, rejected::float8 as rejected`,
    [request.id],
  )
  Object.assign(request, rows[0])
}

/** The streams of the events that a request names. */
export async function requestedStreams(client: pg.ClientBase, request: string): Promise<string[]> {
  const { rows } = await client.query<{ stream: string }>(
    "select distinct stream from outrider.request_event where request = $1 and stream <> '' order by stream",
    [request],
  )
  return rows.map(({ stream }) => stream)
}

/** Before the first event is appended to these streams. A standby that is promoted knows them: it must find what was appended. */
export async function addRequestStreams(
  client: pg.ClientBase,
  { walsender }: Executor,
  request: RunningRequest,
  streams: ReadonlyMap<string, string>,
): Promise<void> {
  const { rowCount } = await inTransaction(client, async () => {
    await client.query(SERVER_COMMIT)
    return client.query(
      `insert into outrider.request_stream (request, stream_key, first_entry, from_entry, session)
     select $1, key, entry, entry, $2 from unnest($3::text[], $4::text[]) as stream (key, entry)
     where ${holdsLock('$5')} and exists (select from outrider.request where id = $1 and state = 'running')`,
      [request.id, request.session, [...streams.keys()], [...streams.values()], walsender],
    )
  })
  if (rowCount !== streams.size)
    throw new Error(`Request ${request.id} was cancelled, or the lock of the slot is not held any longer.`)
}

export interface RequestProgress {
  appended: number
  rejected: number
  through: bigint
  /** Of each stream that has moved: the entry behind which later rows are. */
  entries: ReadonlyMap<string, string>
}

/** Saves what is durable, with the heads saved. False: the request was cancelled. Rejects where the lock is not held any longer. */
export async function saveRequestProgress(
  client: pg.ClientBase,
  { session, walsender }: Executor,
  request: RunningRequest,
  progress: RequestProgress,
): Promise<boolean> {
  const { rows } = await client.query<{ held: boolean; running: boolean }>(
    `with own as materialized (
       select id from outrider.request
       where id = $1 and session = $2 and state = 'running' and ${holdsLock('$3')} for update
     ), saved as (
       update outrider.request as r set appended = $4, rejected = $5, through = greatest(through, $6::bigint),
         updated_at = clock_timestamp()
       from own where r.id = own.id
     ), moved as (
       update outrider.request_stream as s set from_entry = entry, through = greatest(s.through, $6::bigint), session = $7
       from own, unnest($8::text[], $9::text[]) as moved (key, entry) where request = own.id and stream_key = key
     )
     select ${holdsLock('$3')} as held, exists (select from own) as running`,
    [
      request.id,
      session,
      walsender,
      progress.appended,
      progress.rejected,
      String(progress.through),
      request.session,
      [...progress.entries.keys()],
      [...progress.entries.values()],
    ],
  )
  if (!rows[0]!.held) throw lockLost()
  return rows[0]!.running
}

/** Records how much there is to do, once. */
export async function saveRequestFound(
  client: pg.ClientBase,
  { session }: Executor,
  request: string,
  found: { rows: number; bytes: number },
): Promise<void> {
  await client.query(
    `update outrider.request set found = $3, bytes = $4, updated_at = clock_timestamp()
     where id = $1 and session = $2 and found is null`,
    [request, session, found.rows, found.bytes],
  )
}

/** It has ended. What it named is forgotten. */
export async function endRequest(
  client: pg.ClientBase,
  { session, walsender }: Executor,
  request: string,
  end: { state: 'done' | 'refused'; message: string | null; gone: number; appended: number; rejected: number },
): Promise<void> {
  await inTransaction(client, async () => {
    const { rowCount } = await client.query(
      `update outrider.request set state = $4, message = $5, gone = $6, appended = $7, rejected = $8, ended_at = clock_timestamp(), updated_at = clock_timestamp()
       where id = $1 and session = $2 and state = 'running' and ${holdsLock('$3')}`,
      [request, session, walsender, end.state, end.message, end.gone, end.appended, end.rejected],
    )
    if (rowCount !== 0) await forgetParts(client, request)
  })
}

async function forgetParts(client: pg.ClientBase, request: string): Promise<void> {
  await client.query('delete from outrider.request_event where request = $1', [request])
  await client.query('delete from outrider.request_stream where request = $1', [request])
}

/** Ids of events that an earlier session has found in streams are of no use. Only the session that leads reads any. */
export async function forgetPresent(client: pg.ClientBase, { lineage, walsender }: Executor): Promise<void> {
  await client.query(`delete from outrider.present where lineage = $1 and ${holdsLock('$2')}`, [lineage, walsender])
}
