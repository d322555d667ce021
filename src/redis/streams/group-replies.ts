/** Deliveries from here on say that the entry was given up with XNACK FATAL: pending.lua reports 2^31-1. */
export const NACKED = 2 ** 30

/** An entry of a stream, as Redis delivers it: names and values in turn. */
export interface StreamEntry {
  readonly id: string
  readonly fields: readonly string[]
  /** In bytes, where the payload was left out, which `loadPayloads` reads; undefined where the fields are complete. */
  readonly size?: number | undefined
}

/** An entry that was pending with another consumer, or with this one in an earlier life. */
export interface ClaimedEntry {
  id: string
  /** Without the payload. Undefined when it was trimmed while it was pending: it is acknowledged, and lost to the group. */
  fields: string[] | undefined
  /** Of all its fields, in bytes. */
  size: number
  /** How often it was delivered since its last outcome. */
  deliveryCount: number
  /** What `recordFailure` has kept of it; empty when it never failed. */
  attempts: string
}

/**
 * The reply of `loadPayloads` for one entry: its fields; or it was trimmed while it was pending with this consumer, is
 * acknowledged, and lost to the group; or it is gone, and another consumer has dealt with it.
 */
export type LoadedPayload = { id: string; fields: string[] } | { id: string; missing: 'trimmed' | 'gone' }

/** Whether it is moved; `trimmed`: there was nothing to move, and the entry is pending as before. */
export type Moved = boolean | 'trimmed'

/** State of a group in a stream. */
export interface GroupState {
  /** The stream's key. */
  stream: string
  /** Entries that were delivered and are not acknowledged. */
  pending: number
  /** Age of the oldest of them, in seconds; 0 without one. */
  oldestPendingSeconds: number
  /** Entries that were not delivered yet; undefined where Redis cannot tell. */
  lag: number | undefined
}

/** One consumer of a group in one stream. */
export interface ConsumerState {
  name: string
  pending: number
  /** Milliseconds since it last did anything. */
  idle: number
}

/** How many entries the handlers of a stream lack. */
export interface Wanted {
  /** By version and type, as `1 thing.happened`: the place of their handler in `lacks`. */
  places: Readonly<Record<string, number>>
  lacks: readonly number[]
}

/** One page of what is claimed. */
export interface Claimed {
  taken: ClaimedEntry[]
  /** Where the next page begins; undefined at the end. */
  next: string | undefined
  /** The first entry that is left because its handler lacks none, and the places of such handlers in `lacks`. */
  skipped: { from: string; places: readonly number[] } | undefined
}

/** Entries that were taken from a waiting stream, and the state of the rest of it. */
export interface DueEntries {
  taken: ClaimedEntry[]
  /** Entries of it, before these were taken. */
  waiting: number
  /** When the event that fails longest has failed first, in milliseconds since 1970; 0 where none has failed. */
  since: number
  /** Where the next call continues to search for entries that a removed consumer or group had taken. */
  searchFrom: string
  /** More are due: those taken have as many bytes as one call reads. */
  more: boolean
}

/** Entries that a group has lost unread, with the counters of Redis that show it. */
export interface UnreadTrimmed {
  lost: number
  /** The group's position; every entry that is left is after it. */
  lastDelivered: string
  entriesRead: number
  /** Ever, to the stream. */
  entriesAdded: number
  /** Of the stream, now. */
  length: number
}

/**
 * `last`: the id of the stream's last entry; undefined where not all that was pending is taken. `more`: the stream may have more new
 * entries.
 */
export type OrderedReply =
  | { fenced: number }
  | { complete: boolean; taken: ClaimedEntry[]; fresh: StreamEntry[]; last: string | undefined; more: boolean }

export type EntryReply = [id: string, fields: string[] | null, size?: number]

/** A reply of XREADGROUP. Entries without fields were deleted; they are only found by reading what is pending. */
export const streamEntryOf = ([id, fields, size]: EntryReply): StreamEntry =>
  size === undefined ? { id, fields: fields ?? [] } : { id, fields: fields ?? [], size }

/** Reads the entries that a script has taken from what is pending. */
export const takenOf = (reply: unknown): ClaimedEntry[] =>
  (reply as [string, number, string?, string[]?, number?][]).map(([id, deliveryCount, attempts, fields, size]) => ({
    id,
    deliveryCount,
    attempts: attempts ?? '',
    fields,
    size: size ?? 0,
  }))
