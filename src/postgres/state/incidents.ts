import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import type { OutboxMapping } from '../../config/schema.js'
import { inTransaction } from '../client/transaction.js'
import { acceptGap } from './gap-acceptance.js'
import type { Incident, IncidentStream, NewIncident, RepairHalt } from './incident.js'
import type { IncidentKind } from './incident-reasons.js'

/**
 * Opens an incident and returns its id, or the id of the one that is there already: the open one with the same kind, reason
 * and stream for a gap or a foreign server; the one at the same position, open or closed, for a rejected row, and for what
 * an operator should know. So each cause is reported once, however often it is found.
 */
export async function openIncident(client: pg.ClientBase, incident: NewIncident): Promise<string> {
  const values = [incident.lineage, incident.kind, incident.reason, incident.stream ?? null, incident.position ?? null]
  for (;;) {
    const inserted = await client.query<{ id: string }>(
      `insert into outrider.incident (lineage, kind, reason, stream, position, event_id, detail, row)
       select $1, $2, $3, $4, $5, $6, $7, $8
       where $2 <> 'operator' or not exists (
         select from outrider.incident
         where lineage = $1 and kind = $2 and reason = $3 and stream is not distinct from $4
           and position is not distinct from $5
       )
       on conflict do nothing
       returning id`,
      [...values, incident.eventId ?? null, JSON.stringify(incident.detail ?? {}), json(incident.row)],
    )
    if (inserted.rows[0]) return inserted.rows[0].id
    if (incident.kind === 'gap') {
      const reopened = await reopenGap(client, incident)
      if (reopened) return reopened
    }
    const { rows } = await client.query<{ id: string }>(
      `select id from outrider.incident
       where lineage = $1 and kind = $2
         and case when kind = 'rejected' then position = $5
             when kind = 'operator' then
               reason = $3 and stream is not distinct from $4::text and position is not distinct from $5
             else closed_at is null and reason = $3 and stream is not distinct from $4::text end`,
      values,
    )
    if (rows[0]) return rows[0].id
    // It was closed between the two statements: then this is a new one.
  }
}

/**
 * What the snapshot of the repair sees is in the streams of these gaps: it was found there, or put back, and is durable. That
 * holds as long as nothing was lost since.
 */
export async function boundByRepair(client: pg.ClientBase, lineage: string, ids: readonly string[]): Promise<void> {
  await client.query(
    `update outrider.gap_stream as g set snapshot = r.snapshot, since = r.began_at - interval '10 minutes', head = 'repaired'
     from outrider.repair as r where r.lineage = $1 and incident = any ($2)`,
    [lineage, ids],
  )
}

/**
 * A gap whose repair waits for transactions to settle is found once more: what was put back is not taken for granted. Where it was found
 * now counts: by that a repair tells a slot that cannot be read from the one that took its place.
 */
async function reopenGap(
  client: pg.ClientBase,
  { lineage, reason, stream, detail }: NewIncident,
): Promise<string | undefined> {
  const { rows } = await client.query<{ id: string }>(
    `update outrider.incident set repaired_at = null, detail = detail || $4
     where lineage = $1 and kind = 'gap' and reason = $2 and stream is not distinct from $3
       and closed_at is null and repaired_at is not null
     returning id`,
    [lineage, reason, stream ?? null, JSON.stringify(detail ?? {})],
  )
  if (rows[0]) await boundByRepair(client, lineage, [rows[0].id])
  return rows[0]?.id
}

/** Opens many at once, in one statement; those that stand already are left as they are. */
export async function openIncidents(
  client: pg.ClientBase,
  lineage: string,
  kind: IncidentKind,
  incidents: Omit<NewIncident, 'lineage' | 'kind'>[],
): Promise<void> {
  if (incidents.length === 0) return
  const column = <T>(value: (incident: (typeof incidents)[number]) => T): T[] => incidents.map(value)
  await client.query(
    `insert into outrider.incident (lineage, kind, reason, stream, event_id, position, detail, row)
     select $1, $2, reason, stream, event_id, position, detail, "row"
     from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::json[])
       as incident (reason, stream, event_id, position, detail, "row")
     on conflict do nothing`,
    [
      lineage,
      kind,
      column(({ reason }) => reason),
      column(({ stream }) => stream ?? null),
      column(({ eventId }) => eventId ?? null),
      column(({ position }) => position ?? null),
      column(({ detail }) => JSON.stringify(detail ?? {})),
      column(({ row }) => json(row)),
    ],
  )
}

/** The incidents, newest first: the open ones, or with `closed` all of them. At most `limit`, 1,000 by default. */
export async function listIncidents(
  client: pg.ClientBase,
  options: { closed?: boolean; limit?: number } = {},
): Promise<Incident[]> {
  const { rows } = await client.query<IncidentRow>(
    `select ${columns(LISTED_STREAMS)} from outrider.incident where $1 or closed_at is null
     order by incident.id desc limit $2`,
    [options.closed ?? false, options.limit ?? 1000],
  )
  return rows.map(fromRow)
}

/** The ids of the open incidents, oldest first; with `reason` of those that have it. */
export async function openIncidentIds(client: pg.ClientBase, reason?: string): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `select id::text from outrider.incident where closed_at is null and ($1::text is null or reason = $1)
     order by incident.id`,
    [reason ?? null],
  )
  return rows.map(({ id }) => id)
}

/** How many incidents of a lineage are open, by kind; without gaps that are repaired and wait for transactions to settle. */
export async function countOpenIncidents(client: pg.ClientBase, lineage: string): Promise<Map<string, number>> {
  const { rows } = await client.query<{ kind: string; count: number }>(
    `select kind, count(*)::int as count from outrider.incident
     where lineage = $1 and closed_at is null and repaired_at is null group by kind`,
    [lineage],
  )
  return new Map(rows.map(({ kind, count }) => [kind, count]))
}

export async function getIncident(client: pg.ClientBase, id: string): Promise<Incident | undefined> {
  const { rows } = await client.query<IncidentRow>(
    `select ${columns(SHOWN_STREAMS)} from outrider.incident where id = $1`,
    [id],
  )
  return rows[0] && fromRow(rows[0])
}

/**
 * Closes an incident and does what closing means: the relay continues as if what the incident says were accepted.
 * Throws an OutriderError, and changes nothing, where closing cannot make it right. `mapping`: how rows become events, of the
 * configuration.
 */
export async function closeIncident(
  client: pg.ClientBase,
  id: string,
  note?: string,
  mapping?: OutboxMapping,
): Promise<Incident> {
  return inTransaction(client, async () => {
    const { rows } = await client.query<IncidentRow>(
      `select ${columns(LISTED_STREAMS)} from outrider.incident where id = $1 for update`,
      [id],
    )
    const incident = rows[0] && fromRow(rows[0])
    if (!incident) throw noIncident(id)
    if (incident.closedAt) throw wasClosed(incident)
    if (incident.kind === 'gap') await acceptGap(client, incident, mapping)
    return (await markClosed(client, 'id = $1', id, note ?? 'closed by an operator'))[0]!
  })
}

export const wasClosed = ({ id, closedAt, closedBy, resolution }: Incident): OutriderError =>
  new OutriderError(`Incident ${id} was closed at ${closedAt?.toISOString()} by ${closedBy} (${resolution}).`)

export const noIncident = (id: string): OutriderError =>
  new OutriderError(`Found no incident ${id}. See \`outrider incidents list --all\`.`)

/** Closes what kept the relay of a lineage from running, because another lineage takes its place. */
export async function closeAsAdopted(client: pg.ClientBase, lineage: string): Promise<Incident[]> {
  const which = "lineage = $1 and kind in ('gap', 'foreign') and closed_at is null"
  const closed = await markClosed(client, which, lineage, 'adopted')
  await client.query('delete from outrider.repair where lineage = $1', [lineage])
  return closed.sort((a, b) => Number(a.id) - Number(b.id))
}

async function markClosed(
  client: pg.ClientBase,
  which: string,
  value: string,
  resolution: string,
): Promise<Incident[]> {
  const { rows } = await client.query<IncidentRow>(
    `update outrider.incident set closed_at = clock_timestamp(), closed_by = current_user, resolution = $2
     where ${which} returning ${columns(LISTED_STREAMS)}`,
    [value, resolution],
  )
  return rows.map(fromRow)
}

interface IncidentRow {
  id: string
  lineage: string
  kind: IncidentKind
  reason: string
  stream: string | null
  event_id: string | null
  position: string | null
  detail: object
  row: object | null
  opened_at: Date
  closed_at: Date | null
  closed_by: string | null
  resolution: string | null
  repaired_at: Date | null
  repair_max: number | null
  repair_halt: RepairHalt | null
  stream_count: number
  first_streams: IncidentStream[]
}

/** Streams of a gap that are named one by one. */
const SHOWN_STREAMS = 20
const LISTED_STREAMS = 1

const columns = (
  streams: number,
) => `id::text, lineage, kind, reason, stream, event_id, position, detail, "row", opened_at,
  closed_at, closed_by, resolution, repaired_at, repair_max::float8, repair_halt,
  (select count(*)::float8 from outrider.gap_stream as g where g.incident = incident.id) as stream_count,
  (select coalesce(json_agg(json_build_object('key', stream_key, 'detail', g.detail)), '[]')
     from (select stream_key, detail from outrider.gap_stream where gap_stream.incident = incident.id
           order by stream_key limit ${streams}) as g) as first_streams`

function fromRow(row: IncidentRow): Incident {
  const { event_id, opened_at, closed_at, closed_by, stream_count, first_streams, ...rest } = row
  const { repaired_at, repair_max, repair_halt, ...same } = rest
  return {
    ...same,
    ...{ eventId: event_id, openedAt: opened_at, closedAt: closed_at, closedBy: closed_by },
    ...{ repairedAt: repaired_at, repairMax: repair_max, repairHalt: repair_halt },
    streams: streamsOf({ ...same, count: stream_count, first: first_streams }),
  }
}

/** An earlier version named its one stream in the incident. */
function streamsOf({
  kind,
  stream,
  detail,
  count,
  first,
}: Pick<Incident, 'kind' | 'stream' | 'detail'> & Incident['streams']) {
  if (count > 0 || kind !== 'gap' || stream === null) return { count, first }
  return { count: 1, first: [{ key: stream, detail }] }
}

const json = (value: object | undefined): string | null => (value === undefined ? null : JSON.stringify(value))
