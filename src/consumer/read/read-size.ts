import { getHeapStatistics } from 'node:v8'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { StreamEntry } from '../../redis/streams/group-replies.js'
import { byteSizeOf } from '../delivery/delivery.js'
import { MAX_REPLY_BYTES } from '../delivery/limits.js'

/** The entry that is expected before the first. */
const FIRST_GUESS_BYTES = 2 ** 17

const MIB = 2 ** 20

/**
 * Of all streams, in a read that Redis does not bound in bytes: events of 1 MiB, the default limit, have a sixteenth of the heap, or no more
 * than a worker holds.
 */
const MAX_UNBOUNDED = Math.max(16, Math.min(64, Math.floor(getHeapStatistics().heap_size_limit / (16 * MIB))))

/** Where a read of a backlog that is not bounded in bytes had fewer entries of a stream, one that is bounded costs less. */
const MIN_UNBOUNDED = 16

/** For so long, in milliseconds, the entries of a stream are expected to be like those that were read last. */
const EXPECTED_MS = 1_000

/** Between two looks, in milliseconds, past events of a busy handler for one that another handler lacks. */
export const LOOK_AGAIN_MS = 250

/** How much of the largest entry is left in the guess after a read of smaller ones. */
const DECAY = 0.9

/**
 * How a stream is read. Redis bounds XREADGROUP in entries alone. A script bounds a read in bytes, and costs Redis three times as much for
 * each entry. The entries that were read last decide which of them the next read is:
 *
 *   all that there was is read                     XREADGROUP, which waits and returns what arrives
 *   there is more, and the last ones were small    XREADGROUP, page by page
 *   there is more, and one of them was large       a script, until many small ones have followed
 *   none in the last second, or since a pause      a script: the size of what has arrived cannot be expected
 *   some handlers of the stream have enough        a script that ends behind the last wanted entry: read-unordered.lua
 *
 * XREADGROUP asks for as many entries as are expected to fit into a reply, and for so few that the worker can hold them where the
 * expectation is wrong.
 */
export class ReadSize {
  #largest: number | undefined
  #hasMore = true
  #notedAt = Number.NEGATIVE_INFINITY
  #lookedAt = Number.NEGATIVE_INFINITY

  /** The last read did not return all that there was. */
  get hasMore(): boolean {
    return this.#hasMore
  }

  /** Whether to look again for an entry that a handler lacks: a look is expensive, and the last one found others only. */
  get mayLook(): boolean {
    return performance.now() - this.#lookedAt >= LOOK_AGAIN_MS
  }

  /** A look has found nothing that a handler lacks. */
  looked(): void {
    this.#lookedAt = performance.now()
  }

  /** Whether a read that is not bounded in bytes, and asks for so many entries of the `wanted` ones, will not do. */
  needsBound(count: number, wanted: number): boolean {
    if (performance.now() - this.#notedAt > EXPECTED_MS) return true
    return this.#hasMore && count < Math.min(wanted, MIN_UNBOUNDED)
  }

  /** Entries of each of so many streams that a read which is not bounded in bytes asks for: one at least, `wanted` at most. */
  unbounded(wanted: number, streams: number, maxBytes: number): number {
    const fit = Math.floor(Math.min(maxBytes, MAX_REPLY_BYTES) / ((this.#largest ?? FIRST_GUESS_BYTES) * streams))
    return Math.max(1, Math.min(wanted, Math.floor(MAX_UNBOUNDED / streams), fit))
  }

  /** A read has returned these; their bytes. */
  note(entries: readonly StreamEntry[], hasMore: boolean): number {
    this.#hasMore = hasMore
    this.#notedAt = performance.now()
    let [largest, bytes] = [Math.max(1, (this.#largest ?? 0) * DECAY), 0]
    for (const { fields, size = byteSizeOf(fields) } of entries) {
      largest = Math.max(largest, size)
      bytes += size
    }
    if (entries.length > 0) this.#largest = largest
    return bytes
  }
}

/** A stream, and how many new entries of it may be read. */
export interface Readable {
  group: ConsumerGroup
  count: number
  /** Entries that one call of its handlers takes at most. */
  batch: number
}

/** What is known of each stream. */
export class ReadSizes {
  readonly #sizes = new Map<string, ReadSize>()

  of({ key }: ConsumerGroup): ReadSize {
    const size = this.#sizes.get(key) ?? new ReadSize()
    this.#sizes.set(key, size)
    return size
  }

  /** Nothing lets expect any more how large the entries are. */
  clear(): void {
    this.#sizes.clear()
  }

  /** Entries of each of these streams in one XREADGROUP, which counts for each alone and knows one count for all. */
  pageOf(streams: readonly Readable[], maxBytes: number): number {
    const pages = streams.map(({ group, count }) => this.of(group).unbounded(count, streams.length, maxBytes))
    return Math.min(...pages)
  }

  /** Whether a page of so many entries of each of these streams will not do. */
  needBound(streams: readonly Readable[], page: number): boolean {
    return streams.some(({ group, count }) => this.of(group).needsBound(page, count))
  }
}
