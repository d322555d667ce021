import { MAX_REPLY_BYTES } from '../limits.js'

/** The entry that is expected before the first. */
const FIRST_GUESS_BYTES = 2 ** 17
const FIRST_LIMIT = 32
const MAX_LIMIT = 16_384

/**
 * How many entries one read asks for. Redis counts entries and not bytes, so the size of the next ones is guessed by those before,
 * and a read that was not filled is followed by small ones: a burst of large events into an idle stream is read in small pieces.
 */
export class ReadSize {
  #largest = FIRST_GUESS_BYTES
  #limit = FIRST_LIMIT

  /** Of each stream; `wanted` at most, one at least. */
  next(wanted: number, streams: number, maxBytes: number): number {
    const fit = Math.floor(Math.min(maxBytes, MAX_REPLY_BYTES) / (this.#largest * streams))
    return Math.max(1, Math.min(wanted, this.#limit, fit))
  }

  /** The bytes of the entries that one stream has returned, of so many that were asked for. */
  note(sizes: readonly number[], asked: number): void {
    if (sizes.length === 0) return
    this.#largest = Math.max(1, this.#largest / 4, ...sizes)
    if (sizes.length < asked) this.#limit = FIRST_LIMIT
    else this.#limit = Math.min(MAX_LIMIT, Math.max(this.#limit, 2 * asked))
  }
}
