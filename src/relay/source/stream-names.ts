import { STREAM_NAME, streamKey } from '../../event/names.js'

/** A name that rows bear: the keys of its stream, one for each partition; none where no stream may bear it. */
export interface NamedStream {
  /** Zero: the stream is not partitioned. */
  partitions: number
  keys: readonly string[]
}

interface Known extends NamedStream {
  bytes: Buffer
}

/** Names are forgotten together when there are so many: those in use are soon known again. */
const MAX_KNOWN = 10_000

/** From the bytes of a stream's name to its keys, without a text for each row: 60 ns instead of 250. */
export class StreamNames {
  readonly #partitions: ReadonlyMap<string, number>
  readonly #known = new Map<number, Known[]>()
  #size = 0

  constructor(partitions: ReadonlyMap<string, number>) {
    this.#partitions = partitions
  }

  find(data: Buffer, start: number, end: number): NamedStream {
    // FNV-1a
    let hash = 0x811c9dc5
    for (let at = start; at < end; at++) hash = Math.imul(hash ^ (data[at] as number), 0x01000193)
    const bucket = this.#known.get(hash)
    if (bucket) for (const known of bucket) if (isSame(known.bytes, data, start, end)) return known
    return this.#learn(hash, Buffer.from(data.subarray(start, end)))
  }

  /** The same for a name that is put together. */
  named(name: string): NamedStream {
    if (!STREAM_NAME.test(name)) return { partitions: 0, keys: [] }
    const partitions = this.#partitions.get(name) ?? 0
    const keys = Array.from({ length: partitions }, (_, n) => streamKey(name, n))
    return { partitions, keys: partitions === 0 ? [streamKey(name)] : keys }
  }

  #learn(hash: number, bytes: Buffer): NamedStream {
    const named = this.named(bytes.toString())
    // What is no name is not kept: it may be of any length.
    if (named.keys.length === 0) return named
    if (this.#size === MAX_KNOWN) {
      this.#known.clear()
      this.#size = 0
    }
    const known = { ...named, bytes }
    const bucket = this.#known.get(hash)
    if (bucket) bucket.push(known)
    else this.#known.set(hash, [known])
    this.#size += 1
    return known
  }
}

function isSame(bytes: Buffer, data: Buffer, start: number, end: number): boolean {
  if (bytes.length !== end - start) return false
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== data[start + i]) return false
  return true
}
