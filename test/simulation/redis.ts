import type { Head } from '../../src/event/head.js'
import { type Position, ZERO_POSITION } from '../../src/event/position.js'
import type { AppendReply } from '../../src/redis/streams/append.js'
import type { PreparedHead, StreamEnd } from '../../src/redis/streams/repair.js'
import type { Row } from './postgres.js'

export interface Entry {
  /** Of the entry's id, as a number. */
  at: number
  row: Row
  position: Position
}

export interface Event {
  position: Position
  row: Row
}

interface Stream {
  entries: Entry[]
  last: number
  /** Entries that were ever added. */
  added: number
}

/** The last entry of a stream, as a number, and how many were ever added. */
export interface KnownEnd {
  last: number
  added: number
}

interface StoredHead extends Head {
  session: string
  added: number
}

interface Data {
  streams: Map<string, Stream>
  heads: Map<string, StoredHead>
}

const PER_MS = 1_000
const NO_HEAD: StoredHead = { position: ZERO_POSITION, event: '', entry: '0-0', session: '', added: 0 }

const entryOf = (at: number): string => `${Math.floor(at / PER_MS)}-${at % PER_MS}`

const numberOf = (entry: string): number => {
  const dash = entry.indexOf('-')
  return Number(entry.slice(0, dash)) * PER_MS + Number(entry.slice(dash + 1))
}

const copy = ({ streams, heads }: Data): Data => ({
  streams: new Map([...streams].map(([key, stream]) => [key, { ...stream, entries: stream.entries.slice() }])),
  heads: new Map(heads),
})

/**
 * A model of Redis: streams, and a head next to each. `append`, `prepare`, `barrier` and `removeHead` are counterparts of the scripts in
 * src/redis/scripts. Not modelled: refusals (memory, types, permission), trimming, groups, several primaries.
 */
export class Redis {
  data: Data = { streams: new Map(), heads: new Map() }
  /** Changes when connections break. */
  connection = 0
  readonly #now: () => number
  readonly #preparedEnd: (stream: KnownEnd) => KnownEnd

  constructor(now: () => number, preparedEnd: (stream: KnownEnd) => KnownEnd) {
    this.#now = now
    this.#preparedEnd = preparedEnd
  }

  copy(): Data {
    return copy(this.data)
  }

  /** The server restarts with these data, or another one takes its place. */
  replace(data: Data): void {
    this.data = copy(data)
    this.connection += 1
  }

  /** append.lua */
  append(
    key: string,
    session: string,
    expected: string,
    previous: Position,
    events: readonly Event[] = [],
  ): AppendReply {
    const stored = this.data.heads.get(key)
    const stream = this.data.streams.get(key)
    let at = stored ?? NO_HEAD
    const reply = (status: AppendReply['status'], error = '', appended = 0, skipped = 0): AppendReply => {
      const head = { position: at.position, event: at.event, entry: at.entry }
      return { status, head, session: at.session, appended, skipped, error }
    }
    if (stored && session !== '' && at.session !== session && at.session !== expected) return reply('OTHER')
    if (at.position < previous) return reply('BEHIND')
    if (at.entry !== '0-0') {
      if (!stream) return reply('BEHIND', 'the stream is gone')
      const entry = numberOf(at.entry)
      if (stream.last < entry) return reply('BEHIND', 'the stream ends before the entry that the head names')
      const first = stream.entries[0]?.at ?? Number.POSITIVE_INFINITY
      const isTrimmedTo = entry < first && stream.added - stream.entries.length < at.added
      if (stream.added < at.added || isTrimmedTo) return reply('BEHIND', 'the stream is another one')
    }
    if (events.length === 0 && (session === '' || !stored || at.session === session)) return reply('OK')
    let skipped = 0
    let met = previous === at.position
    for (; skipped < events.length && events[skipped]!.position <= at.position; skipped++) {
      const { position, row } = events[skipped]!
      if (position !== at.position) continue
      if (row.id !== at.event) return reply('DIVERGED')
      met = true
    }
    if (skipped < events.length && !met) return reply('DIVERGED')
    at = { ...at, session }
    for (const { position, row } of events.slice(skipped)) {
      const entry = this.#add(key, row, position)
      at = { ...at, position, event: row.id, entry: entryOf(entry), added: this.data.streams.get(key)!.added }
    }
    this.data.heads.set(key, at)
    return reply('OK', '', events.length - skipped, skipped)
  }

  /** read-stream-end.lua */
  readStreamEnd(key: string): StreamEnd {
    const stream = this.data.streams.get(key)
    return { last: entryOf(stream?.last ?? 0), added: String(stream?.added ?? '') }
  }

  /** prepare-repair.lua */
  prepare(
    key: string,
    session: string,
    found: { session: string; head: Head; end: StreamEnd },
    place: Position,
  ): PreparedHead {
    const stored = this.data.heads.get(key)
    const { position, entry } = found.head
    if ((stored?.session ?? '') !== found.session) return { status: 'MOVED' }
    if (stored && (stored.position !== position || stored.entry !== entry)) return { status: 'MOVED' }
    const stream = this.data.streams.get(key)
    if ((stream?.last ?? 0) < numberOf(found.end.last)) return { status: 'MOVED' }
    if ((stream?.added ?? 0) < Number(found.end.added)) return { status: 'MOVED' }
    const { last, added } = this.#preparedEnd({ last: stream?.last ?? 0, added: stream?.added ?? 0 })
    this.data.heads.set(key, { position: place, event: '', entry: entryOf(last), session, added })
    return { status: 'OK', entry: entryOf(last) }
  }

  /** barrier.lua */
  barrier(key: string, session: string, position: Position): boolean {
    const stored = this.data.heads.get(key)
    return stored !== undefined && stored.session === session && stored.position >= position
  }

  /** remove-head.lua */
  removeHead(key: string, found: { session: string; head: Head }): void {
    const stored = this.data.heads.get(key)
    if (stored?.session === found.session && stored.entry === found.head.entry) this.data.heads.delete(key)
  }

  /** Entries from the one that was added at this time. */
  entriesFrom(key: string, since: Date | null): readonly Entry[] {
    const entries = this.data.streams.get(key)?.entries ?? []
    return since ? entries.filter(({ at }) => at >= since.getTime() * PER_MS) : entries
  }

  #add(key: string, row: Row, position: Position): number {
    let stream = this.data.streams.get(key)
    if (!stream) {
      stream = { entries: [], last: 0, added: 0 }
      this.data.streams.set(key, stream)
    }
    const at = Math.max(stream.last + 1, this.#now() * PER_MS)
    stream.entries.push({ at, row, position })
    stream.last = at
    stream.added += 1
    return at
  }
}
