import type pg from 'pg'
import { Failure } from '../failure.js'
import { acceptGap } from './gap-acceptance.js'
import type { Incident, NewIncident } from './incident.js'
import type { IncidentKind } from './incident-reasons.js'
import { inTransaction } from './transaction.js'

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

/** The incidents, newest first: the open ones, or with `closed` all of them. */
export async function listIncidents(
  client: pg.ClientBase,
  options: { closed?: boolean; limit?: number } = {},
): Promise<Incident[]> {
  const { rows } = await client.query<IncidentRow>(
    `select ${COLUMNS} from outrider.incident where $1 or closed_at is null order by id desc limit $2`,
    [options.closed ?? false, options.limit ?? 1000],
  )
  return rows.map(fromRow)
}

/** How many incidents of a lineage are open, by kind. */
export async function countOpenIncidents(client: pg.ClientBase, lineage: string): Promise<Map<string, number>> {
  const { rows } = await client.query<{ kind: string; count: number }>(
    `select kind, count(*)::int as count from outrider.incident
     where lineage = $1 and closed_at is null group by kind`,
    [lineage],
  )
  return new Map(rows.map(({ kind, count }) => [kind, count]))
}

export async function getIncident(client: pg.ClientBase, id: string): Promise<Incident | undefined> {
  const { rows } = await client.query<IncidentRow>(`select ${COLUMNS} from outrider.incident where id = $1`, [id])
  return rows[0] && fromRow(rows[0])
}

/**
 * Closes an incident and does what closing means: the relay goes on as if what the incident says were accepted.
 * Throws a Failure, and changes nothing, where closing cannot make it right.
 */
export async function closeIncident(client: pg.ClientBase, id: string, note?: string): Promise<Incident> {
  return inTransaction(client, async () => {
    const { rows } = await client.query<IncidentRow>(
      `select ${COLUMNS} from outrider.incident where id = $1 for update`,
      [id],
    )
    const incident = rows[0] && fromRow(rows[0])
    if (!incident) throw noIncident(id)
    if (incident.closedAt) {
      throw new Failure(
        `Incident ${id} was closed at ${incident.closedAt.toISOString()} by ${incident.closedBy} (${incident.resolution}).`,
      )
    }
    if (incident.kind === 'gap') await acceptGap(client, incident)
    return (await markClosed(client, 'id = $1', id, note ?? 'closed by an operator'))[0]!
  })
}

export interface OpenGap {
  id: string
  stream: string
}

/** Open gaps of streams, oldest first. */
export async function openGaps(client: pg.ClientBase, lineage: string): Promise<OpenGap[]> {
  const { rows } = await client.query<OpenGap>(
    `select id::text, stream from outrider.incident
     where lineage = $1 and kind = 'gap' and reason = 'stream_behind' and closed_at is null order by incident.id`,
    [lineage],
  )
  return rows
}

/** Closes a gap whose stream is whole again: nothing was lost, so nothing is accepted. */
export async function closeAsFoundAgain(client: pg.ClientBase, id: string): Promise<void> {
  await markClosed(client, 'id = $1 and closed_at is null', id, 'found again')
}

export const noIncident = (id: string): Failure =>
  new Failure(`Found no incident ${id}. See \`outrider incidents list --all\`.`)

/** Closes what kept the relay of a lineage from running, because another lineage takes its place. */
export async function closeAsAdopted(client: pg.ClientBase, lineage: string): Promise<Incident[]> {
  const which = "lineage = $1 and kind in ('gap', 'foreign') and closed_at is null"
  const closed = await markClosed(client, which, lineage, 'adopted')
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
     where ${which} returning ${COLUMNS}`,
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
}

const COLUMNS = `id::text, lineage, kind, reason, stream, event_id, position, detail, "row", opened_at, closed_at,
  closed_by, resolution`

function fromRow({ event_id, opened_at, closed_at, closed_by, ...same }: IncidentRow): Incident {
  return { ...same, eventId: event_id, openedAt: opened_at, closedAt: closed_at, closedBy: closed_by }
}

const json = (value: object | undefined): string | null => (value === undefined ? null : JSON.stringify(value))
