import type pg from 'pg'
import { OWN_OUTBOX } from '../config/schema.js'
import { formatLsn, type Lsn, parseLsn } from '../postgres/client/lsn.js'
import { serverVersion } from '../postgres/client/server.js'
import { findOmissions } from '../postgres/replication/publication.js'
import { readSlot, type Slot } from '../postgres/replication/slot.js'
import type { ForeignReason, GapReason, IncidentCause } from '../postgres/state/incident-reasons.js'
import { describeFinding } from '../postgres/state/incident-text.js'
import { openIncident } from '../postgres/state/incidents.js'
import type { Lineage } from '../postgres/state/lineage.js'
import { describeRemedy, type OpenIncident, remedyOf } from '../postgres/state/remedy.js'
import { GapError, HaltError } from './errors.js'

/**
 * Does the session still hold the lock of its slot? One that has lost it sees what its successor does, and must not record
 * that as an incident. Not asked where the lock was just taken.
 */
export type Leads = () => Promise<boolean>

/**
 * Is this the database that the lineage was made with? Another one is recorded before anything else happens, and halts the
 * relay until an operator has decided.
 */
export async function verifyServer(
  client: pg.ClientBase,
  lineage: Lineage,
  server: { systemId: string; timeline: number },
): Promise<void> {
  if (server.systemId !== lineage.systemId) {
    throw await foreign(client, lineage, 'system_id', { expected: lineage.systemId, found: server.systemId })
  }
  if (server.timeline < lineage.timeline) {
    throw await foreign(client, lineage, 'timeline', { expected: lineage.timeline, found: server.timeline })
  }
}

/** Does everything come that was committed after what is confirmed, and has a person decided on what was found before? */
export async function verifySource(client: pg.ClientBase, lineage: Lineage): Promise<Slot> {
  const slot = await requireSlot(client, lineage)
  await verifyPublication(client, lineage)
  await verifyIncidents(client, lineage)
  return slot
}

/** The slot, which can still give everything after what is confirmed. */
export async function requireSlot(client: pg.ClientBase, lineage: Lineage, leads?: Leads): Promise<Slot> {
  const slot = await readSlot(client, lineage.slot)
  const detail = { slot: lineage.slot, confirmed: lineage.confirmedLsn }
  if (!slot) throw await gap(client, lineage, 'slot_missing', detail, leads)
  await verifySlot(client, lineage, slot, leads)
  return slot
}

/** Can the slot still give everything after what is confirmed? */
export async function verifySlot(client: pg.ClientBase, lineage: Lineage, slot: Slot, leads?: Leads): Promise<void> {
  const reason = gapOfSlot(slot, parseLsn(lineage.confirmedLsn))
  if (reason === undefined) return
  const detail = { slot: lineage.slot, confirmed: lineage.confirmedLsn }
  const found =
    reason === 'slot_ahead' && slot.confirmedFlush !== undefined ? { found: formatLsn(slot.confirmedFlush) } : {}
  throw await gap(client, lineage, reason, { ...detail, ...found }, leads)
}

/** What keeps the slot from giving everything after `confirmed`; undefined: nothing does. Pure. */
export function gapOfSlot(
  { walStatus, confirmedFlush }: Pick<Slot, 'walStatus' | 'confirmedFlush'>,
  confirmed: Lsn,
): 'slot_lost' | 'slot_ahead' | undefined {
  if (walStatus === 'lost') return 'slot_lost'
  return confirmedFlush !== undefined && confirmedFlush > confirmed ? 'slot_ahead' : undefined
}

/**
 * Every change to the publication may have let rows pass unseen, also one that was undone. Both states are read at once: a gap
 * that is closed meanwhile changes the stored one.
 */
export async function verifyPublication(client: pg.ClientBase, lineage: Lineage, leads?: Leads): Promise<void> {
  const { rows } = await client.query<{ expected: string; found: string | null }>(
    `select publication_state as expected, outrider.publication_state(publication) as found
     from outrider.lineage where lineage = $1`,
    [lineage.lineage],
  )
  const { expected, found } = rows[0]!
  if (found === expected) return
  // Created again since it was missing: that gap is open, and closing it accepts the publication as it is.
  const known = found !== null && (await openIncidentsOf(client, lineage)).find(isMissingPublication)
  if (known) throw await haltFor(client, lineage, known)
  const reason = found === null ? 'publication_missing' : 'publication_changed'
  const omitted = await findOmissions(client, lineage)
  const detail = { publication: lineage.publication, expected, found, confirmed: lineage.confirmedLsn, ...omitted }
  throw await gap(client, lineage, reason, detail, leads)
}

/** But for streams that Redis had lost: those are looked at again, see sink/found-again.ts. */
async function verifyIncidents(client: pg.ClientBase, lineage: Lineage): Promise<void> {
  const [open] = await openIncidentsOf(client, lineage)
  if (open) throw await haltFor(client, lineage, open)
}

const isMissingPublication = ({ reason }: OpenIncident): boolean => reason === 'publication_missing'

async function openIncidentsOf(client: pg.ClientBase, { lineage }: Lineage): Promise<OpenIncident[]> {
  const { rows } = await client.query<OpenIncident>(
    `select id::text, kind, reason, stream, detail from outrider.incident
      where lineage = $1 and kind in ('gap', 'foreign') and reason <> 'stream_behind' and closed_at is null
        and repaired_at is null
      order by id`,
    [lineage],
  )
  return rows
}

/** What to throw while an incident is open. */
export async function haltFor(
  client: pg.ClientBase,
  { outboxTable }: Pick<Lineage, 'outboxTable'>,
  incident: OpenIncident,
): Promise<HaltError> {
  const message = advice(incident, await serverVersion(client), outboxTable)
  if (incident.kind !== 'gap') return new HaltError(incident.reason, message)
  return new GapError(incident.reason, message, incident.id, describeFinding(incident))
}

/** Opens a gap, and gives what to throw. */
export const gap = (client: pg.ClientBase, lineage: Lineage, reason: GapReason, detail: object, leads?: Leads) =>
  record(client, lineage, { kind: 'gap', reason }, { detail, leads })

/** Opens the gap for WAL that this version of Postgres cannot decode, and gives what to throw. */
export async function undecodable(client: pg.ClientBase, lineage: Lineage, { message }: Error): Promise<Error> {
  const { rows } = await client.query<{ confirmed: string }>(
    'select confirmed_lsn::text as confirmed from outrider.lineage where lineage = $1',
    [lineage.lineage],
  )
  return gap(client, lineage, 'slot_lost', { slot: lineage.slot, confirmed: rows[0]?.confirmed, message })
}

/** Opens an incident that says this database or this Redis is not the one that the lineage knows. */
export const foreign = (
  client: pg.ClientBase,
  lineage: Lineage,
  reason: ForeignReason,
  detail: object,
  stream?: string,
) => record(client, lineage, { kind: 'foreign', reason }, { detail, stream })

/** Opens an incident, unless another session leads now, and gives what to throw. */
export async function record(
  client: pg.ClientBase,
  lineage: Lineage,
  cause: IncidentCause,
  { detail, stream, leads }: { detail: object; stream?: string | undefined; leads?: Leads | undefined },
): Promise<Error> {
  if (leads && !(await leads())) {
    return new Error(
      `Found ${cause.reason} without the lock of the slot: another session may lead, and nothing is recorded.`,
    )
  }
  const id = await openIncident(client, {
    ...cause,
    lineage: lineage.lineage,
    detail,
    ...(stream === undefined ? {} : { stream }),
  })
  return haltFor(client, lineage, { ...cause, id, detail, stream: stream ?? null })
}

/** The next step for a person. A gap that is repaired without one does not show it. */
function advice(incident: OpenIncident, version: number, outboxTable: string): string {
  const { id, stream } = incident
  const where = stream ? ` Stream: ${stream}.` : ''
  const next = describeRemedy(remedyOf(incident, version, { repairs: false, mapped: outboxTable !== OWN_OUTBOX.table }))
  return `${describeFinding(incident)}${where} Nothing newer is published. \`outrider incidents show ${id}\` has the details. To continue: ${next}`
}
