import type pg from 'pg'
import { inBatches } from '../base/in-batches.js'
import { streamKey } from '../event/names.js'
import { loadHeadsAfter } from '../postgres/state/heads.js'
import type { Snapshot } from '../postgres/state/snapshot.js'
import type { RedisClient } from '../redis/client/connect.js'
import { checkpointAt, readHorizons } from './bounds.js'
import {
  type AuditedEntry,
  addedAt,
  auditedEntryOf,
  firstLsn,
  readFacts,
  readPages,
  type StreamFacts,
} from './entries.js'

/** Streams that are asked about at once. */
const AT_ONCE = 100

/** Which streams an audit looks at. */
export class StreamSelection {
  readonly #wanted: string | undefined

  /** `wanted`: one stream with its partitions, or one partition; undefined: all. */
  constructor(wanted: string | undefined) {
    this.#wanted = wanted
  }

  includes(key: string): boolean {
    const wanted = this.#wanted
    return wanted === undefined || key === wanted || (key.startsWith(wanted) && /^:\d+$/.test(key.slice(wanted.length)))
  }

  /** The stream's name in a row. */
  get name(): string | undefined {
    return this.#wanted?.replace(/:\d+$/, '')
  }

  /** Those that the lineage has published to, and the wanted one. */
  async keys(client: pg.Client, lineage: string, partitions: Record<string, number>): Promise<Set<string>> {
    const keys = new Set<string>()
    for (let after: string | undefined = ''; after !== undefined; ) {
      const page: Map<string, unknown> = await loadHeadsAfter(client, lineage, after)
      for (const key of page.keys()) if (this.includes(key)) keys.add(key)
      after = [...page.keys()].at(-1)
    }
    if (this.#wanted === undefined) return keys
    const count = partitions[this.#wanted]
    if (count === undefined) keys.add(this.#wanted)
    else for (let n = 0; n < count; n++) keys.add(streamKey(this.#wanted, n))
    return keys
  }
}

/** Streams by key; undefined: there is no such stream. */
export type KnownStreams = Map<string, StreamFacts | undefined>

export async function readStreams(client: RedisClient, keys: Iterable<string>): Promise<KnownStreams> {
  const found: KnownStreams = new Map()
  // In order, so that a report is the same each time.
  for (const key of [...keys].sort()) found.set(key, undefined)
  await inBatches(found.keys(), AT_ONCE, async (key) => found.set(key, await readFacts(client, key)))
  return found
}

/** A stretch of time by the clock of Redis, in milliseconds: `from` up to before `to`. */
export interface Slice {
  from: number
  to: number
}

/** Entries of one slice, about. */
const SLICE_ENTRIES = 500_000

/** Stretches that table and streams are read in side by side, so that what belongs together is met soon. The last has no end. */
export function slicesOf(streams: KnownStreams, from: number): Slice[] {
  const facts = [...streams.values()].filter((each) => each?.first !== undefined) as StreamFacts[]
  const begin = Math.max(
    from,
    facts.reduce((least, { first }) => Math.min(least, addedAt(first!)), Infinity),
  )
  const end = facts.reduce((most, { last }) => Math.max(most, addedAt(last)), 0)
  const count = Math.ceil(facts.reduce((sum, { length }) => sum + length, 0) / SLICE_ENTRIES)
  if (count <= 1 || begin >= end) return [{ from, to: Infinity }]
  const at = (n: number) => Math.floor(begin + ((end - begin) * n) / count)
  return Array.from({ length: count }, (_, n) => ({
    from: n === 0 ? from : at(n),
    to: n === count - 1 ? Infinity : at(n + 1),
  }))
}

export interface StreamReading {
  source: string
  slice: Slice
  entry(key: string, entry: AuditedEntry): void
  /** An entry of someone else. */
  other(): void
  /** After each page. */
  read(entries: number): void
}

/** Reads the slice of each stream, up to the last entry that its facts name. */
export async function readEntries(client: RedisClient, streams: KnownStreams, reading: StreamReading): Promise<void> {
  const { slice, source } = reading
  for (const [key, facts] of streams) {
    if (facts?.first === undefined || addedAt(facts.last) < slice.from || addedAt(facts.first) >= slice.to) continue
    const to = addedAt(facts.last) < slice.to ? facts.last : String(slice.to - 1)
    for await (const page of readPages(client, key, String(slice.from), to)) {
      for (const each of page) {
        const entry = auditedEntryOf(each, source)
        if (entry) reading.entry(key, entry)
        else reading.other()
      }
      reading.read(page.length)
    }
  }
}

/**
 * Where the entry is of a row that has none:
 *
 * trimmed   the relay has trimmed it
 * removed   it may have been trimmed, as far as checkpoints tell: no more such rows than entries that were removed
 * missing   it must be there
 */
export type Lack = 'trimmed' | 'removed' | 'missing'

/** What became of the entries of rows that have none. */
export class TrimmedRows {
  readonly #client: pg.Client
  readonly #redis: RedisClient
  readonly #lineage: { lineage: string; source: string }
  #horizons: ReadonlyMap<string, Snapshot> = new Map()
  /** By stream: what was committed before its first entry, or a little later. */
  readonly #bounds = new Map<string, 'none' | 'all' | Snapshot>()

  constructor(client: pg.Client, redis: RedisClient, lineage: { lineage: string; source: string }) {
    this.#client = client
    this.#redis = redis
    this.#lineage = lineage
  }

  async learn(streams: KnownStreams): Promise<void> {
    this.#horizons = await readHorizons(this.#client, this.#lineage.lineage)
    for (const [key, facts] of streams) this.#bounds.set(key, await this.#boundOf(key, facts))
  }

  lackOf(stream: string, xid: bigint): Lack {
    // A repair does not put back its entry, and counters of a stream begin again where it was lost.
    if (this.#horizons.get(stream)?.sees(xid)) return 'trimmed'
    const bound = this.#bounds.get(stream) ?? 'none'
    return bound === 'all' || (bound !== 'none' && bound.sees(xid)) ? 'removed' : 'missing'
  }

  async #boundOf(key: string, facts: StreamFacts | undefined): Promise<'none' | 'all' | Snapshot> {
    // A stream that is gone, or another one, was not trimmed: it is lost.
    if (facts === undefined || facts.removed === 0) return 'none'
    const lsn = await firstLsn(this.#redis, key, this.#lineage.source)
    if (lsn === undefined) return 'all'
    return (await checkpointAt(this.#client, this.#lineage.lineage, lsn)) ?? 'all'
  }
}
