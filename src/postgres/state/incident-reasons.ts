/** Events may be missing in Redis. */
export type GapReason =
  | 'slot_missing'
  | 'slot_lost'
  | 'slot_ahead'
  | 'publication_missing'
  | 'publication_changed'
  | 'outbox_renamed'
  | 'outbox_replaced'
  | 'outbox_inherited'
  | 'outbox_unlogged'
  | 'outbox_foreign_rows'
  | 'stream_behind'

/** Gaps that are repaired from Outrider's own table. */
export const REPAIRABLE: ReadonlySet<string> = new Set<GapReason>([
  'stream_behind',
  'slot_missing',
  'slot_lost',
  'slot_ahead',
  'publication_missing',
  'publication_changed',
])

/** Events that a repair puts back at most, unless a person permits more. */
export const DEFAULT_REPAIR_MAX = 10_000_000

/** This database and Redis do not belong together. */
export type ForeignReason = 'system_id' | 'timeline' | 'session_unknown' | 'wal_beyond' | 'diverged'

/** What halts a relay until a person has decided. */
export type HaltingReason = GapReason | ForeignReason

export type IncidentKind = 'gap' | 'foreign' | 'rejected' | 'operator'

/** Reasons of rejected rows are many, some of them of Redis, and one remedy serves all of them. */
export type IncidentCause =
  | { kind: 'gap'; reason: GapReason }
  | { kind: 'foreign'; reason: ForeignReason }
  | { kind: 'rejected' | 'operator'; reason: string }
