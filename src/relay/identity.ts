import type pg from 'pg'
import type { ForeignReason, GapReason, HaltingReason, IncidentCause } from '../postgres/incident-reasons.js'
import { openIncident } from '../postgres/incidents.js'
import type { Lineage } from '../postgres/lineage.js'
import { formatLsn, parseLsn } from '../postgres/lsn.js'
import { describeRemedy, type OpenIncident, remedyOf } from '../postgres/remedy.js'
import { serverVersion } from '../postgres/server.js'
import { readSlot, type Slot } from '../postgres/slot.js'
import { Halt } from './halt.js'

/**
 * Does the session still hold the lock of its slot? One that has lost it sees what its successor does, and must not record
 * that as an incident. Not asked where the lock was just taken.
 */
export type Leads = () => Promise<boolean>

/**
 * Is this the database, the slot and the publication that the lineage was made with? A gap or a foreign server is
 * recorded before anything else happens, and halts the relay until somebody has decided.
 */
export async function verifyIdentity(
  client: pg.ClientBase,
  lineage: Lineage,
  server: { systemId: string; timeline: number },
): Promise<Slot> {
  if (server.systemId !== lineage.systemId) {
    throw await foreign(client, lineage, 'system_id', { expected: lineage.systemId, found: server.systemId })
  }
  if (server.timeline < lineage.timeline) {
    throw await foreign(client, lineage, 'timeline', { expected: lineage.timeline, found: server.timeline })
  }
  const slot = await readSlot(client, lineage.slot)
  if (!slot) throw await gap(client, lineage, 'slot_missing', { slot: lineage.slot, confirmed: lineage.confirmedLsn })
  await verifySlot(client, lineage, slot)
  await verifyPublication(client, lineage)
  await verifyIncidents(client, lineage)
  return slot
}

/** Can the slot still give everything after what is confirmed? */
export async function verifySlot(client: pg.ClientBase, lineage: Lineage, slot: Slot, leads?: Leads): Promise<void> {
  if (slot.walStatus === 'lost') {
    throw await gap(client, lineage, 'slot_lost', { slot: lineage.slot, confirmed: lineage.confirmedLsn }, leads)
  }
  if (slot.confirmedFlush !== undefined && slot.confirmedFlush > parseLsn(lineage.confirmedLsn)) {
    const found = formatLsn(slot.confirmedFlush)
    const detail = { slot: lineage.slot, confirmed: lineage.confirmedLsn, found }
    throw await gap(client, lineage, 'slot_ahead', detail, leads)
  }
}

/** Every change to the publication may have let rows pass unseen, also one that was undone. */
export async function verifyPublication(client: pg.ClientBase, lineage: Lineage, leads?: Leads): Promise<void> {
  const { rows } = await client.query('select outrider.publication_state($1) as state', [lineage.publication])
  const state: string | null = rows[0].state
  if (state === lineage.publicationState) return
  const reason = state === null ? 'publication_missing' : 'publication_changed'
  const detail = { publication: lineage.publication, expected: lineage.publicationState, found: state }
  throw await gap(client, lineage, reason, detail, leads)
}

/** But for streams that Redis had lost: those are looked at again, see sink/found-again.ts. */
async function verifyIncidents(client: pg.ClientBase, lineage: Lineage): Promise<void> {
  const { rows } = await client.query<OpenIncident>(
    `select id::text, kind, reason, stream, detail from outrider.incident
      where lineage = $1 and kind in ('gap', 'foreign') and reason <> 'stream_behind' and closed_at is null order by id`,
    [lineage.lineage],
  )
  const open = rows[0]
  if (open) throw await haltFor(client, open)
}

/** What to throw while an incident is open. */
export async function haltFor(client: pg.ClientBase, incident: OpenIncident): Promise<Halt> {
  return new Halt(incident.reason, advice(incident, await serverVersion(client)))
}

/** Opens a gap, and gives what to throw. */
export const gap = (client: pg.ClientBase, lineage: Lineage, reason: GapReason, detail: object, leads?: Leads) =>
  record(client, lineage, { kind: 'gap', reason }, { detail, leads })

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
  { lineage }: Lineage,
  cause: IncidentCause,
  { detail, stream, leads }: { detail: object; stream?: string | undefined; leads?: Leads | undefined },
): Promise<Error> {
  if (leads && !(await leads())) {
    return new Error(
      `Found ${cause.reason} without the lock of the slot: another session may lead, and nothing is recorded.`,
    )
  }
  const id = await openIncident(client, { ...cause, lineage, detail, ...(stream === undefined ? {} : { stream }) })
  return haltFor(client, { ...cause, id, detail, stream: stream ?? null })
}

const WHAT: Record<HaltingReason, string> = {
  slot_missing: 'The replication slot is gone: what was committed since it was last confirmed cannot be read from WAL.',
  slot_lost: 'Postgres has removed WAL that the slot needed: what was committed meanwhile cannot be read from it.',
  slot_ahead:
    'The slot stands beyond what Outrider confirmed: somebody advanced it or made it anew, and rows may have been passed over.',
  publication_missing: 'The publication is gone: inserts made since then are not decoded.',
  publication_changed: 'The publication was altered: inserts may not have been decoded meanwhile.',
  outbox_renamed:
    'The outbox table was renamed before this version ran: an earlier one may have skipped its rows since then.',
  outbox_replaced: 'Another table has the name of the outbox table: its rows are not decoded.',
  outbox_inherited: 'A table inherits from the outbox table: its rows are not published.',
  outbox_unlogged:
    'The outbox table has partitions that are unlogged or foreign tables: their rows never reach the WAL, so they are not published.',
  outbox_foreign_rows:
    'The publication gave a row of a table that is not the outbox. The slot stays before that row; closing skips all rows of that table.',
  stream_behind: 'Redis has lost events that were confirmed.',
  system_id: 'This is another Postgres cluster than the one that was set up (a restore, a copy, or a major upgrade).',
  timeline: 'This Postgres is on an older timeline than one that was published from: an old primary, or a restore.',
  session_unknown:
    'The head in Redis was written by a relay that this database knows nothing of: a copy of it publishes, or this is the copy.',
  wal_beyond: 'The head in Redis lies beyond the WAL of this server: this is an older copy of the database.',
  diverged:
    'Redis holds another event at a position that this database gives to a different one: a copy of it has published.',
}

const isKnown = (reason: string): reason is HaltingReason => Object.hasOwn(WHAT, reason)

function advice(incident: OpenIncident, version: number): string {
  const { id, reason, stream } = incident
  const where = stream ? ` Stream: ${stream}.` : ''
  const what = isKnown(reason) ? WHAT[reason] : 'Found something that a person has to decide.'
  const next = describeRemedy(remedyOf(incident, version))
  return `${what}${where} Nothing newer is published. \`outrider incidents show ${id}\` has the details. To continue: ${next}`
}
