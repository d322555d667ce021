import type { Cluster, Redis } from 'ioredis'
import { fieldsOf } from '../entry.js'
import { shaOf, type Truth } from './truth.js'

/** One entry of a stream. */
export interface Seen {
  stream: string
  entry: string
  id: string
  subject: string
  sha: string
  sequence: string
}

/** Everything that the streams hold, in order. */
export async function readStreams(redis: Redis | Cluster, streams: string[]): Promise<Seen[]> {
  const seen: Seen[] = []
  for (const stream of streams) {
    for (let from = '-'; ; ) {
      const entries = await redis.xrange(stream, from, '+', 'COUNT', 1000)
      for (const [entry, pairs] of entries) {
        const fields = fieldsOf(pairs)
        const { id = '', subject = '', data = '', sequence = '' } = fields
        seen.push({ stream, entry, id, subject, sha: shaOf(data), sequence })
      }
      const last = entries.at(-1)
      if (!last) break
      from = `(${last[0]}`
    }
  }
  return seen
}

/** What the streams hold, held against the truth; every list is empty when all is well. */
export interface Differences {
  committed: number
  published: number
  /** Committed, not in its stream. */
  lost: Truth[]
  /** In a stream, never committed. */
  phantom: Seen[]
  /** The same event again in its stream. */
  duplicated: Seen[]
  /** Other bytes than were committed. */
  divergent: Seen[]
  /** Before an earlier event of its subject, or out of the order of positions in its stream, but for what a repair has put back. */
  disordered: Seen[]
}

/** The LSN of a position that no row of WAL has: see `placePrefix`. */
const PUT_BACK = /^[0-9a-f]{8}-[0-9a-f]{15}[7f]-/

export function compare(truth: Truth[], seen: Seen[]): Differences {
  const known = new Map(truth.map((event) => [event.id, event]))
  const met = new Set<string>()
  const subjects = new Map<string, number>()
  const positions = new Map<string, string>()
  const differences: Differences = {
    committed: truth.length,
    published: seen.length,
    lost: [],
    phantom: [],
    duplicated: [],
    divergent: [],
    disordered: [],
  }
  for (const entry of seen) {
    const event = known.get(entry.id)
    if (!event || event.stream !== entry.stream) {
      differences.phantom.push(entry)
      continue
    }
    if (met.has(entry.id)) {
      differences.duplicated.push(entry)
      continue
    }
    met.add(entry.id)
    if (event.sha !== entry.sha) differences.divergent.push(entry)
    const before = subjects.get(event.subject) ?? 0
    const isPutBack = PUT_BACK.test(entry.sequence)
    const isBefore = !isPutBack && entry.sequence <= (positions.get(entry.stream) ?? '')
    if (event.subjectSeq !== before + 1 || isBefore) differences.disordered.push(entry)
    subjects.set(event.subject, event.subjectSeq)
    if (!isPutBack) positions.set(entry.stream, entry.sequence)
  }
  differences.lost = truth.filter(({ id }) => !met.has(id))
  return differences
}

/** The differences as numbers, for a summary or an assertion. */
export function countDifferences(
  differences: Differences,
): Record<'lost' | 'phantom' | 'duplicated' | 'divergent' | 'disordered', number> {
  return {
    lost: differences.lost.length,
    phantom: differences.phantom.length,
    duplicated: differences.duplicated.length,
    divergent: differences.divergent.length,
    disordered: differences.disordered.length,
  }
}
