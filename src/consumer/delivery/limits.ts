const MIB = 2 ** 20

/** Of all that a worker holds: entries, and payloads as text. What is parsed of those that run comes on top of it. */
export const MAX_HELD_BYTES = 16 * MIB

/** Of an entry without its texts: its objects, and its places in queues and maps. Measured with 10,000 of them. */
export const ENTRY_BYTES = 1024

/** Of the payloads of all calls that run. One alone may have more. */
export const MAX_RUNNING_BYTES = 8 * MIB

/** A call of no more runs whatever the large ones have: few of them take up as much as a large one. */
export const MAX_SMALL_BYTES = 64 * 1024

/** Of the payloads of all small calls that run. */
export const MAX_RUNNING_SMALL_BYTES = 4 * MIB

/** Of one reply of Redis. */
export const MAX_REPLY_BYTES = 4 * MIB

/** Entries that a worker holds, with or without payload, those included that wait for their next attempt. */
export const MAX_HELD_ENTRIES = 10_000

/** An event that waits longer, in milliseconds, is set aside instead of being held. Not in order, where it holds up its subject. */
export const MAX_HELD_WAIT_MS = 600_000

/**
 * Entries of one stream and handler that a worker holds while they wait for a retry: of so many such pairs, all that fail have half of
 * what it holds, and the others the rest. What is more is set aside in Redis.
 */
export const maxWaiting = (pairs: number): number =>
  Math.max(1, Math.min(1_000, Math.floor(MAX_HELD_ENTRIES / 2 / Math.max(1, pairs))))
