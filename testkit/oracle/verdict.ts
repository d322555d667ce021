import type { Redis } from 'ioredis'
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
export async function readStreams(redis: Redis, streams: string[]): Promise<Seen[]> {
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
export interface Verdict {
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
  /** Before an earlier event of its subject, or out of the order of positions in its stream. */
  disordered: Seen[]
}

export function judge(truth: Truth[], seen: Seen[]): Verdict {
  const known = new Map(truth.map((event) => [event.id, event]))
  const met = new Set<string>()
  const subjects = new Map<string, number>()
  const positions = new Map<string, string>()
  const verdict: Verdict = {
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
      verdict.phantom.push(entry)
      continue
    }
    if (met.has(entry.id)) {
      verdict.duplicated.push(entry)
      continue
    }
    met.add(entry.id)
    if (event.sha !== entry.sha) verdict.divergent.push(entry)
    const before = subjects.get(event.subject) ?? 0
    if (event.subjectSeq !== before + 1 || entry.sequence <= (positions.get(entry.stream) ?? '')) {
      verdict.disordered.push(entry)
    }
    subjects.set(event.subject, event.subjectSeq)
    positions.set(entry.stream, entry.sequence)
  }
  verdict.lost = truth.filter(({ id }) => !met.has(id))
  return verdict
}

/** The verdict as numbers, for a summary or an assertion. */
export function countVerdict(
  verdict: Verdict,
): Record<'lost' | 'phantom' | 'duplicated' | 'divergent' | 'disordered', number> {
  return {
    lost: verdict.lost.length,
    phantom: verdict.phantom.length,
    duplicated: verdict.duplicated.length,
    divergent: verdict.divergent.length,
    disordered: verdict.disordered.length,
  }
}
