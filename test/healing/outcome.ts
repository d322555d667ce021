import { streamKey } from '../../src/event/names.js'
import { partitionOf } from '../../src/event/partition.js'
import { isPlace } from '../../src/event/position.js'
import type { RedisClient } from '../../src/redis/client/connect.js'
import { readStreams, type Seen } from '../../testkit/oracle/differences.js'
import type { Truth } from '../../testkit/oracle/truth.js'
import { until } from '../../testkit/services/index.js'
import { type HealingEnv, type HealingRedis, KEYS, PARTITIONS } from './healing-env.js'
import { MAX_LINGER_MS } from './writers.js'

/** How long everything may take to arrive in the end. */
const ARRIVED_MS = 300_000

/** An event that was committed, and when its row was inserted. */
export interface TimedTruth extends Truth {
  at: Date
}

/** A time in which rows were not decoded, or later ones published before it was found. */
export interface Hole {
  from: number
  until: number
}

export interface Outcome {
  committed: number
  lost: Truth[]
  /** In a stream, never committed; or in a stream that is not its own. */
  phantom: Seen[]
  /** Other bytes than were committed. */
  divergent: Seen[]
  /** After a later event of its subject, or out of the order of positions. */
  disordered: Seen[]
  /** Late, as a hole makes them: allowed. */
  late: number
  /** Entries of events that their stream has already: allowed. */
  doubled: number
  /** Events without an effect, with more than one, and effects without an event. */
  effects: { missing: string[]; repeated: string[]; invented: string[] }
}

export const readAll = (client: RedisClient): Promise<Seen[]> => readStreams(client, [...KEYS])

const keyOf = ({ stream, subject, id }: Truth): string => {
  const count = PARTITIONS[stream] ?? 0
  return count > 0 ? streamKey(stream, partitionOf(subject ?? id, count)) : stream
}

/** What the streams and the effects are, held against what was committed. */
export function outcomeOf(
  truth: readonly TimedTruth[],
  seen: readonly Seen[],
  effects: readonly string[],
  holes: readonly Hole[],
  isTrimmed = false,
): Outcome {
  const known = new Map(truth.map((event) => [event.id, event]))
  const met = new Set<string>()
  const subjects = new Map<string, number>()
  const positions = new Map<string, string>()
  const outcome: Outcome = {
    ...{ committed: truth.length, lost: [], phantom: [], divergent: [], disordered: [], late: 0, doubled: 0 },
    effects: judgeEffects(known, effects),
  }
  for (const entry of seen) {
    const event = known.get(entry.id)
    if (!event || keyOf(event) !== entry.stream) {
      outcome.phantom.push(entry)
      continue
    }
    if (event.sha !== entry.sha) outcome.divergent.push(entry)
    if (met.has(entry.id)) {
      outcome.doubled += 1
      continue
    }
    met.add(entry.id)
    const isPutBack = isPlace(entry.sequence)
    const isBefore = !isPutBack && entry.sequence <= (positions.get(entry.stream) ?? '')
    if (!isPutBack) positions.set(entry.stream, entry.sequence)
    const last = subjects.get(event.subject) ?? 0
    subjects.set(event.subject, Math.max(last, event.subjectSeq))
    if (event.subjectSeq > last && !isBefore) continue
    const at = event.at.getTime()
    const isLate = isPutBack && holes.some(({ from, until }) => at >= from - MAX_LINGER_MS - 1_000 && at <= until)
    if (isLate) outcome.late += 1
    else outcome.disordered.push(entry)
  }
  // What was trimmed was finished: it has had its effect.
  if (isTrimmed) for (const id of effects) met.add(id)
  outcome.lost = truth.filter(({ id }) => !met.has(id))
  return outcome
}

function judgeEffects(known: ReadonlyMap<string, unknown>, effects: readonly string[]): Outcome['effects'] {
  const counts = new Map<string, number>()
  for (const id of effects) counts.set(id, (counts.get(id) ?? 0) + 1)
  return {
    missing: [...known.keys()].filter((id) => !counts.has(id)),
    repeated: [...counts].filter(([, count]) => count > 1).map(([id]) => id),
    invented: [...counts.keys()].filter((id) => !known.has(id)),
  }
}

/** Waits until everything has arrived and has had its effect, and every gap is closed; then how it is. */
export async function finalOutcome(env: HealingEnv<HealingRedis>, holes: readonly Hole[] = []): Promise<Outcome> {
  const { rows: truth } = await env.postgres.query<TimedTruth>(
    `select event_id as id, writer, counter, stream, subject, subject_seq as "subjectSeq", sha, at from truth`,
  )
  await until(
    async () => {
      const ids = new Set((await readAll(env.redis.client)).map(({ id }) => id))
      const isClosed = (await env.incidents()).length === 0
      const hasAll = env.isTrimmed || truth.every(({ id }) => ids.has(id))
      return isClosed && hasAll && (await env.countEffects()) >= truth.length
    },
    { timeout: ARRIVED_MS },
  ).catch(() => {})
  return outcomeOf(truth, await readAll(env.redis.client), await env.effects(), holes, env.isTrimmed)
}

/** How many entries there are of events that their stream has already. */
export function countDoubled(seen: readonly Seen[]): number {
  return seen.length - new Set(seen.map(({ stream, id }) => `${stream} ${id}`)).size
}

const some = (all: readonly unknown[]): string => `${all.length}: ${JSON.stringify(all.slice(0, 5))}`

/** What is wrong; empty: nothing. */
export function violationsOf({ lost, phantom, divergent, disordered, effects }: Outcome): string[] {
  const lists = { lost, phantom, divergent, 'out of order': disordered }
  const of = { missing: effects.missing, repeated: effects.repeated, invented: effects.invented }
  return [
    ...Object.entries(lists)
      .filter(([, all]) => all.length > 0)
      .map(([name, all]) => `${name} ${some(all)}`),
    ...Object.entries(of)
      .filter(([, all]) => all.length > 0)
      .map(([name, all]) => `effects ${name} ${some(all)}`),
  ]
}
