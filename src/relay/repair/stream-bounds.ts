import type { Head } from '../../event/head.js'
import { isRequested, type Position, parsePosition, ZERO_POSITION } from '../../event/position.js'
import { type Lsn, parseLsn } from '../../postgres/client/lsn.js'
import type { Bound } from '../../postgres/state/checkpoints.js'
import { type GapStream, headText, type OpenGap, REPAIRED } from '../../postgres/state/gaps.js'
import type { AppendReply } from '../../redis/streams/append.js'
import type { StreamEnd } from '../../redis/streams/repair.js'
import { CUT_OFF } from '../sink/head-ownership.js'

/**
 * What is known to be in the streams that a repair concerns. A bound that does not hold any longer is dropped: then all rows are looked
 * for, which takes longer and is always right. Everything here is pure.
 */
export const NO_BOUND: Bound = { snapshot: null, since: null }

/** A stream as it was found. */
export interface FoundStream {
  key: string
  session: string
  head: Head
  /** Before the head was looked at. */
  end: StreamEnd
  /** Nothing is lost of it since its head was saved; or a repair has moved the head, and nothing is lost since then. */
  isWhole: boolean
  isCutOff: boolean
  /** The head is behind, and the stream has everything that it says. */
  hasSoundEnd: boolean
}

/** `earlier`: the session that began to repair before this one; undefined: none did. */
export const foundStream = (
  found: Pick<FoundStream, 'key' | 'end' | 'hasSoundEnd'> & { saved: Position | undefined },
  { session, head, error, status }: AppendReply,
  earlier: string | undefined,
): FoundStream => ({
  ...{ key: found.key, end: found.end, hasSoundEnd: found.hasSoundEnd, session, head },
  // What a stream had lost when a person accepted it counts as published.
  isWhole: found.saved !== undefined && (status === 'OK' || found.saved === ZERO_POSITION),
  isCutOff: error === CUT_OFF && session === earlier,
})

/** Is what the bound says of the stream still so? */
export function holds({ head }: Pick<GapStream, 'head'>, found: FoundStream | undefined): boolean {
  if (found === undefined) return false
  if (head === REPAIRED) return found.isWhole
  return found.isCutOff || (found.hasSoundEnd && head === headText(found.head))
}

/**
 * What is in a stream where slot or publication had a gap: `bound`, unless the stream itself has lost something. One that Redis refuses
 * has no saved head: what was decoded of it is rejected already.
 */
export const boundAtSource = (found: FoundStream | undefined, bound: Bound): Bound =>
  found === undefined || found.isWhole || found.isCutOff ? bound : NO_BOUND

/** Of two gaps, the one that reaches further back counts; null: any entry may be of a row that is missing. */
export function earlierOf(one: Date | null | undefined, other: Date | null): Date | null {
  if (one === undefined) return other
  if (one === null || other === null) return null
  return one < other ? one : other
}

/**
 * What was confirmed before the first gap of slot or publication; undefined where a gap that an earlier version opened, or `setup`, does
 * not say. `confirmedNow`: as the lineage says.
 */
export function confirmedBefore(gaps: readonly Pick<OpenGap, 'detail'>[], confirmedNow: Lsn): Lsn | undefined {
  let lowest = confirmedNow
  for (const { detail } of gaps) {
    const confirmed: unknown = Reflect.get(detail, 'confirmed')
    if (typeof confirmed !== 'string') return undefined
    const lsn = parseLsn(confirmed)
    if (lsn < lowest) lowest = lsn
  }
  return lowest
}

/** The first index at a place that none of these positions has. Those of requests lie above all of a repair. */
export function firstFreeIndex(prefix: string, positions: Iterable<Position>): number {
  let first = 0
  for (const position of positions) {
    if (position.startsWith(prefix) && !isRequested(position))
      first = Math.max(first, parsePosition(position).index + 1)
  }
  return first
}
