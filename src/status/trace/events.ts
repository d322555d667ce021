import pg from 'pg'
import { type Config, OWN_OUTBOX } from '../../config/schema.js'
import { sqlState } from '../../postgres/client/transaction.js'
import { BUCKETS } from '../../postgres/outbox/buckets.js'
import { hasSearchIndex } from '../../postgres/outbox/search-index.js'
import { parseTable, quoteTable } from '../../postgres/outbox/table-name.js'
import { firstIdAt } from '../outbox.js'

/** What an event is looked for by. */
export type SearchKey = 'id' | 'subject' | 'correlation'

/** A row of the outbox. */
export interface OutboxEvent {
  id: string
  stream: string
  type: string
  subject: string | undefined
  correlationId: string | undefined
  causationId: string | undefined
  createdAt: Date | undefined
  /** A checkpoint proves that it was published. */
  proven: boolean
}

export interface EventSearch {
  by: SearchKey
  /** The oldest first. */
  events: OutboxEvent[]
  /** There are more than these. */
  more: boolean
  /** Only rows that were inserted since then; undefined: all. */
  since: Date | undefined
  /** False: the search took too long, and was given up. */
  complete: boolean
}

/** Events that are shown. */
const MAX_EVENTS = 100
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
const QUERY_CANCELED = '57014'
const INVALID_TEXT = '22P02'

const COLUMNS = {
  subject: 'subject',
  correlation: 'correlation_id',
} as const

/** Looks by each of the keys until one finds something. `sinceMs`: how far back where no index helps. */
export async function findEvents(
  client: pg.ClientBase,
  { outbox }: Config,
  term: string,
  keys: readonly SearchKey[],
  lineage: string,
  sinceMs: number,
): Promise<EventSearch> {
  let last: EventSearch | undefined
  for (const by of keys) {
    const found =
      outbox.table === OWN_OUTBOX.table
        ? await findOwn(client, term, by, lineage, sinceMs)
        : await findMapped(client, outbox, term, by)
    if (found.events.length > 0) return found
    last = last && !last.complete ? last : found
  }
  return last as EventSearch
}

async function findOwn(
  client: pg.ClientBase,
  term: string,
  by: SearchKey,
  lineage: string,
  sinceMs: number,
): Promise<EventSearch> {
  const nothing = { by, events: [], more: false, since: undefined, complete: true }
  if (by === 'id' && !UUID.test(term)) return nothing
  const indexed = by === 'id' || (await hasSearchIndex(client, COLUMNS[by]))
  const since = indexed ? undefined : new Date(Date.now() - sinceMs)
  const values: unknown[] = [lineage, term, BUCKETS]
  if (since) values.push(firstIdAt(since.getTime()))
  const where = by === 'id' ? 'o.id = $2::uuid' : `o.${COLUMNS[by]} = $2`
  try {
    const { rows } = await client.query<Nullable<OutboxEvent>>(
      `with proof as (
         select snapshot from outrider.checkpoint
         where lineage = $1 and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
         order by lsn desc limit 1
       )
       select id::text, stream, type, subject, correlation_id as "correlationId", causation_id as "causationId",
         created_at as "createdAt",
         coalesce(pg_visible_in_snapshot(txid, (select snapshot from proof)), false) as proven
       from outrider.outbox as o where bucket = any ($3) and ${where}${since ? ' and o.id >= $4' : ''}
       order by seq desc limit ${MAX_EVENTS + 1}`,
      values,
    )
    const events = rows.slice(0, MAX_EVENTS).reverse().map(known)
    return { by, events, more: rows.length > MAX_EVENTS, since, complete: true }
  } catch (error) {
    if (sqlState(error) !== QUERY_CANCELED) throw error
    return { ...nothing, since, complete: false }
  }
}

type Nullable<T> = { [K in keyof T]: T[K] | null }

const known = (row: Nullable<OutboxEvent>): OutboxEvent =>
  Object.fromEntries(Object.entries(row).map(([name, value]) => [name, value ?? undefined])) as unknown as OutboxEvent

/** What indexes a team's own table has, they know: it is searched as a whole, until the statement is given up. */
async function findMapped(
  client: pg.ClientBase,
  { table, columns, stream }: Config['outbox'],
  term: string,
  by: SearchKey,
): Promise<EventSearch> {
  const column = { id: columns.id, subject: columns.subject, correlation: columns.correlationId }[by]
  const nothing = { by, events: [], more: false, since: undefined, complete: true }
  if (column === undefined) return nothing
  try {
    const { rows } = await client.query<{ row: Record<string, unknown> }>(
      `select to_jsonb(o) - $2::text as row from ${quoteTable(parseTable(table))} as o
       where o.${pg.escapeIdentifier(column)} = $1 limit ${MAX_EVENTS + 1}`,
      [term, columns.data ?? ''],
    )
    const events = rows.slice(0, MAX_EVENTS).map(({ row }): OutboxEvent => {
      const text = (name: string | undefined) =>
        name === undefined || row[name] === null || row[name] === undefined ? undefined : String(row[name])
      const time = text(columns.time)
      return {
        id: text(columns.id) ?? '',
        stream: stream.replace(/\{([^{}\s]+)\}/g, (_, name: string) => text(name) ?? ''),
        type: text(columns.type) ?? '',
        subject: text(columns.subject),
        correlationId: text(columns.correlationId),
        causationId: text(columns.causationId),
        createdAt: time === undefined || Number.isNaN(Date.parse(time)) ? undefined : new Date(time),
        proven: false,
      }
    })
    return { by, events, more: rows.length > MAX_EVENTS, since: undefined, complete: true }
  } catch (error) {
    if (sqlState(error) === INVALID_TEXT) return nothing
    if (sqlState(error) === QUERY_CANCELED) return { ...nothing, complete: false }
    throw error
  }
}

/** Rejected rows of these events, by event id. */
export async function findRejections(
  client: pg.ClientBase,
  lineage: string,
  ids: readonly string[],
): Promise<Map<string, { incident: string; reason: string; at: Date; stream: string | undefined }>> {
  const { rows } = await client.query<{
    event: string
    incident: string
    reason: string
    at: Date
    stream: string | null
  }>(
    `select event_id as event, incident.id::text as incident, reason, opened_at as at, stream from outrider.incident
     where lineage = $1 and kind = 'rejected' and event_id = any ($2)`,
    [lineage, ids],
  )
  return new Map(rows.map(({ event, stream, ...rest }) => [event, { ...rest, stream: stream ?? undefined }]))
}
