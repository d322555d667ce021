import type { Digest, Hash } from './digest.js'

/** What is known of an event that only one side has shown so far, or whose sides differ. Bits of one number. */
export const Flag = {
  row: 1,
  entry: 2,
  /** Entry and row differ. */
  altered: 4,
  /** Entries with one id differ among themselves, so at least one differs from its row. */
  conflict: 8,
  /** The row must be in the stream, as far as its transaction says. */
  due: 16,
  /** A due row whose transaction is not covered by a saved checkpoint, only by the position at the start. */
  recent: 32,
  /** The row was committed before the lineage's first checkpoint. */
  before: 64,
  /** The row's transaction id is above every one that this server has given. */
  alien: 128,
  /** Of a mapped table without a time: the row may be older than the lineage. */
  undated: 256,
  /** The entry is older than what was asked for. */
  old: 512,
  /** An incident says why the row was not published. */
  rejected: 1024,
  /** The stream may have had the event, and was trimmed. */
  trimmed: 2048,
  /** Has an entry whose row is younger than the oldest row of the table. */
  extra: 4096,
  missing: 8192,
  /** A row was found for an entry that had none left: another entry has the same event. */
  copy: 16384,
  /** The entry has no row, and a request appended it: to another stream than its own, or before its row was gone. */
  republished: 32768,
} as const

const INITIAL = 1 << 12

/**
 * Events by hash, in typed arrays: 17 bytes a place, at most two thirds of them taken. Open addressing with linear
 * probing; a removal moves later ones up, so that no probe has to pass over marks.
 */
export class Unmatched {
  #keys = new Uint32Array(2 * INITIAL)
  #digests = new Uint32Array(2 * INITIAL)
  #flags = new Uint16Array(INITIAL)
  #mask = INITIAL - 1
  size = 0

  /** Its place, which is valid until something is inserted or removed; -1: it is not there. */
  find({ high, low }: Hash): number {
    for (let at = low & this.#mask; ; at = (at + 1) & this.#mask) {
      const [foundHigh, foundLow] = [this.#keys[2 * at] as number, this.#keys[2 * at + 1] as number]
      if (foundHigh === high && foundLow === low) return at
      if (foundHigh === 0 && foundLow === 0) return -1
    }
  }

  insert(key: Hash, digest: Digest, flags: number): void {
    if (3 * (this.size + 1) > 2 * (this.#mask + 1)) this.#grow()
    this.#put(key.high, key.low, digest.content, digest.time, flags)
    this.size += 1
  }

  flags(at: number): number {
    return this.#flags[at] as number
  }

  add(at: number, flags: number): void {
    this.#flags[at] = this.flags(at) | flags
  }

  clear(at: number, flags: number): void {
    this.#flags[at] = this.flags(at) & ~flags
  }

  digest(at: number): Digest {
    return { content: this.#digests[2 * at] as number, time: this.#digests[2 * at + 1] as number }
  }

  setDigest(at: number, { content, time }: Digest): void {
    this.#digests[2 * at] = content
    this.#digests[2 * at + 1] = time
  }

  remove(at: number): void {
    let free = at
    for (let next = (free + 1) & this.#mask; !this.#isFree(next); next = (next + 1) & this.#mask) {
      const home = (this.#keys[2 * next + 1] as number) & this.#mask
      // It may move up unless its home lies behind the free place.
      if (((next - home) & this.#mask) < ((next - free) & this.#mask)) continue
      this.#keys.copyWithin(2 * free, 2 * next, 2 * next + 2)
      this.#digests.copyWithin(2 * free, 2 * next, 2 * next + 2)
      this.#flags[free] = this.flags(next)
      free = next
    }
    this.#keys.fill(0, 2 * free, 2 * free + 2)
    this.size -= 1
  }

  /** The flags of each event. */
  *all(): Generator<number> {
    for (let at = 0; at <= this.#mask; at++) if (!this.#isFree(at)) yield this.flags(at)
  }

  /** Only those whose hash it accepts. */
  keep(accepts: (high: number) => boolean): void {
    this.#rebuild(this.#mask + 1, accepts)
  }

  #grow(): void {
    this.#rebuild(2 * (this.#mask + 1), () => true)
  }

  #rebuild(places: number, accepts: (high: number) => boolean): void {
    const [keys, digests, flags] = [this.#keys, this.#digests, this.#flags]
    this.#keys = new Uint32Array(2 * places)
    this.#digests = new Uint32Array(2 * places)
    this.#flags = new Uint16Array(places)
    this.#mask = places - 1
    this.size = 0
    for (let at = 0; at < flags.length; at++) {
      const [high, low] = [keys[2 * at] as number, keys[2 * at + 1] as number]
      if ((high === 0 && low === 0) || !accepts(high)) continue
      this.#put(high, low, digests[2 * at] as number, digests[2 * at + 1] as number, flags[at] as number)
      this.size += 1
    }
  }

  #put(high: number, low: number, content: number, time: number, flags: number): void {
    let at = low & this.#mask
    while (!this.#isFree(at)) at = (at + 1) & this.#mask
    this.#keys[2 * at] = high
    this.#keys[2 * at + 1] = low
    this.#digests[2 * at] = content
    this.#digests[2 * at + 1] = time
    this.#flags[at] = flags
  }

  #isFree(at: number): boolean {
    return this.#keys[2 * at] === 0 && this.#keys[2 * at + 1] === 0
  }
}
