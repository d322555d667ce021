import type { Incident } from './incident.js'
import type { HaltingReason } from './incident-reasons.js'
import type { RepairState } from './repair-state.js'

const FOUND: Record<HaltingReason, string> = {
  slot_missing: 'The replication slot is gone: what was committed since it was last confirmed cannot be read from WAL.',
  slot_lost: 'Postgres has removed WAL that the slot needed: what was committed meanwhile cannot be read from it.',
  slot_ahead:
    'The slot is beyond what Outrider confirmed: it was advanced or created again, and rows may have been skipped.',
  publication_missing: 'The publication is gone: inserts made since then are not decoded.',
  publication_changed: 'The publication was altered: inserts may not have been decoded meanwhile.',
  outbox_renamed:
    'The outbox table had another name while an earlier version ran, or that version has set it up since: it may have skipped rows.',
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
    'The head in Redis was written by a relay that this database does not have a session of: a copy of it publishes, or this is the copy.',
  wal_beyond: 'The head in Redis lies beyond the WAL of this server: this is an older copy of the database.',
  diverged:
    'Redis holds another event at a position that this database gives to a different one: a copy of it has published.',
}

const isHalting = (reason: string): reason is HaltingReason => Object.hasOwn(FOUND, reason)

/** The finding of an incident, as a sentence. Pure. */
export function describeFinding({ kind, reason }: Pick<Incident, 'kind' | 'reason'>): string {
  if (isHalting(reason)) return FOUND[reason]
  if (kind === 'rejected') return `A row of the outbox cannot be published: ${reason}.`
  if (reason === 'possible_phantoms') return PHANTOMS
  if (reason === 'history_lost') return HISTORY_LOST
  return 'A finding of another version, which a person has to decide.'
}

const PHANTOMS =
  'Postgres failed over, and the new primary does not have some commits: events of them may have been published.'

const HISTORY_LOST =
  'Redis has lost events, some of them older than the rows that the outbox keeps: those cannot be put back, and it is not known which there were.'

/** The consequence of an open incident, as a sentence; `repair`: where a gap is on its way to being repaired. Pure. */
export function describeConsequence({ kind }: Pick<Incident, 'kind'>, repair: RepairState['is'] = 'none'): string {
  if (kind !== 'gap' || repair === 'none') return CONSEQUENCES[kind]
  return repair === 'settling'
    ? 'Publishing continues: nothing is held up.'
    : 'Nothing newer is published until it is repaired or closed.'
}

const CONSEQUENCES: Record<Incident['kind'], string> = {
  gap: 'Nothing newer is published until it is closed.',
  foreign: 'Nothing is published until it is closed.',
  rejected: 'That row is not in its stream. All others are published.',
  operator: 'Publishing continues.',
}
