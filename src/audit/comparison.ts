import { type Digest, type Hash, sameDigest } from './digest.js'
import { Flag, Unmatched } from './unmatched.js'

/** Events whose hash begins with these bits: one pass compares them, another pass the others. */
export interface Share {
  bits: number
  value: number
}

/**
 * Meets rows and entries in any order, and keeps only what has no counterpart yet: both come roughly by time, so that is
 * little. Where it is too much, it gives up half of its share and tells `split`, so that another pass compares that half.
 */
export class Comparison {
  readonly unmatched = new Unmatched()
  /** Entries that say the same as another one which was met before its row. */
  copies = 0
  readonly #max: number
  readonly #split: (share: Share) => void
  #share: Share

  constructor(share: Share, max: number, split: (share: Share) => void) {
    this.#share = share
    this.#max = max
    this.#split = split
  }

  accepts({ high }: Pick<Hash, 'high'>): boolean {
    const { bits, value } = this.#share
    return bits === 0 || high >>> (32 - bits) === value
  }

  /** `flags`: what the row's transaction says of it. */
  row(event: Hash, digest: Digest, flags: number): void {
    const at = this.unmatched.find(event)
    if (at < 0) this.#insert(event, digest, Flag.row | flags)
    else if (this.unmatched.flags(at) & Flag.row) return
    else if (this.unmatched.flags(at) & Flag.conflict) this.unmatched.add(at, Flag.row | flags)
    else if (sameDigest(this.unmatched.digest(at), digest)) this.unmatched.remove(at)
    else this.unmatched.add(at, Flag.row | Flag.altered | flags)
  }

  entry(event: Hash, digest: Digest, flags: number): void {
    const at = this.unmatched.find(event)
    if (at < 0) {
      this.#insert(event, digest, Flag.entry | flags)
      return
    }
    const same = sameDigest(this.unmatched.digest(at), digest)
    if (this.unmatched.flags(at) & Flag.entry) {
      if (same) this.copies += 1
      else this.unmatched.add(at, Flag.conflict)
    } else if (same) this.unmatched.remove(at)
    else {
      this.unmatched.add(at, Flag.entry | Flag.altered | flags)
      this.unmatched.setDigest(at, digest)
    }
  }

  /** A row that was seen before is looked up for what was not matched. */
  rowAgain(event: Hash, digest: () => Digest): void {
    const at = this.unmatched.find(event)
    if (at < 0) return
    const flags = this.unmatched.flags(at)
    if (!(flags & Flag.entry)) return
    const same = sameDigest(this.unmatched.digest(at), digest())
    if (!(flags & Flag.row)) this.unmatched.add(at, Flag.row | Flag.copy | (same ? 0 : Flag.altered))
    // A second row with the same id.
    else if (same) this.unmatched.clear(at, Flag.altered)
  }

  /** An entry is looked up for what was not matched; its flags from then on, 0 where it was. */
  entryAgain(event: Hash, digest: () => Digest): number {
    const at = this.unmatched.find(event)
    if (at < 0) return 0
    if (!(this.unmatched.flags(at) & Flag.entry)) {
      const found = digest()
      const same = sameDigest(this.unmatched.digest(at), found)
      this.unmatched.add(at, same ? Flag.entry : Flag.entry | Flag.altered)
      this.unmatched.setDigest(at, found)
    }
    return this.unmatched.flags(at)
  }

  mark(event: Hash, flags: number): void {
    const at = this.unmatched.find(event)
    if (at >= 0) this.unmatched.add(at, flags)
  }

  flagsOf(event: Hash): number {
    const at = this.unmatched.find(event)
    return at < 0 ? 0 : this.unmatched.flags(at)
  }

  /** Whether any event has flags that the test accepts. */
  some(test: (flags: number) => boolean): boolean {
    for (const flags of this.unmatched.all()) if (test(flags)) return true
    return false
  }

  #insert(event: Hash, digest: Digest, flags: number): void {
    this.unmatched.insert(event, digest, flags)
    while (this.unmatched.size > this.#max) {
      const { bits, value } = this.#share
      this.#share = { bits: bits + 1, value: value * 2 }
      this.#split({ bits: bits + 1, value: value * 2 + 1 })
      this.unmatched.keep((high) => this.accepts({ high }))
    }
  }
}
