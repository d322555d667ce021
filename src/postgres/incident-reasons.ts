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
