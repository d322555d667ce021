import { MAX_REPLY_BYTES } from '../limits.js'

/** The entry that is expected before the first. */
const FIRST_GUESS_BYTES = 2 ** 17

/** Of all streams, in a read that Redis does not bound in bytes. */
const MAX_UNBOUNDED = 32

/** How much of the largest entry is left in the guess after a read of smaller ones. */
const DECAY = 0.9

/**
 * How a stream is read. A read that waits is bounded in entries alone, so it asks for few, as many as the size of those before lets
 * expect to fit. Where it was filled, the next reads are scripts that do not wait and are bounded in bytes, until one finds no more.
 */
export class ReadSize {
  #largest = FIRST_GUESS_BYTES
  #hasMore = false

  /** The last read did not return all that there was. */
  get hasMore(): boolean {
    return this.#hasMore
  }

  /** Entries of each of so many streams that a read which waits asks for: one at least, `wanted` at most. */
  unbounded(wanted: number, streams: number, maxBytes: number): number {
    const fit = Math.floor(Math.min(maxBytes, MAX_REPLY_BYTES) / (this.#largest * streams))
    return Math.max(1, Math.min(wanted, Math.floor(MAX_UNBOUNDED / streams), fit))
  }

  /** The bytes of the entries that a read has returned. */
  note(sizes: readonly number[], hasMore: boolean): void {
    this.#hasMore = hasMore
    if (sizes.length > 0) this.#largest = Math.max(1, this.#largest * DECAY, ...sizes)
  }
}
