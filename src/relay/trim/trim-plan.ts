import type { TrimPolicy } from '../../config/trimming.js'
import { compareIds, type EntryId, timeOf } from '../../event/entry-id.js'
import type { GroupFloor, TrimStep, TrimSurvey } from '../../redis/streams/trim.js'

/** A trim for the number of entries, or for memory, leaves those that are younger, in milliseconds: by the clock of Redis. */
export const MIN_AGE_MS = 600_000

/** What is known of a stream. */
export interface TrimFacts extends Omit<TrimSurvey, 'policies' | 'bytes'> {
  policy: Pick<TrimPolicy, 'retention' | 'maxFinished' | 'maxLength' | 'trimAtMemory'>
  /** Groups that are waited for and that Redis does not have. */
  missing: readonly GroupFloor[]
}

export interface TrimPlan {
  /** Undefined: nothing may go, or nothing has to. */
  step: TrimStep | undefined
  /** The stream has more entries than it may have: those go first that every group has finished. */
  cut: { maxLength: number; finished: { upTo: EntryId; most: number } | undefined } | undefined
  /** By how many milliseconds the first entry has outlived the retention. */
  overdueMs: number
  /** The group that has not finished that entry; undefined where none holds it up. */
  heldBy: GroupFloor | undefined
  /** Redis has less memory left than it should, and entries may go for that. */
  isForMemory: boolean
}

/** Of what every group has finished, one look removes so much for memory. */
const MEMORY_SHARE = 1 / 4

/**
 * What may go of a stream. Pure.
 *
 *     first                         floor                             last
 *       | finished by every group     | a group has not finished this   |
 *       |~~~~~~~~~~~~~~~~~~|          |                                 |
 *       | goes             | retention, or as many as are too many      |
 *
 * The floor is the first id that any group has not finished: one in Redis, or one that is waited for and missing there. Without any
 * group only the age counts. While Redis has used more than `trimAtMemory` of its memory, a quarter of what is before the floor goes.
 */
export function planTrim(facts: TrimFacts): TrimPlan {
  const { now, length, first, policy } = facts
  const floor = lowest([...facts.groups, ...facts.missing])
  if (length === 0) return { step: undefined, cut: undefined, overdueMs: 0, heldBy: undefined, isForMemory: false }
  const oldest = policy.retention === undefined ? undefined : now - policy.retention
  const overdueMs = oldest === undefined ? 0 : Math.max(0, oldest - timeOf(first))
  const isHeld = floor !== undefined && overdueMs > 0 && compareIds(floor.floor, first) <= 0
  const forMemory = byMemory(facts, floor)
  return {
    step: byAge(facts, oldest, floor) ?? larger(byNumber(facts, floor), forMemory),
    cut: cutTo(facts, floor),
    overdueMs,
    heldBy: isHeld ? floor : undefined,
    isForMemory: forMemory !== undefined,
  }
}

/** Has Redis used more of its memory than the policy allows? Pure. */
export function isShortOfMemory({ memory, policy: { trimAtMemory } }: Pick<TrimFacts, 'memory' | 'policy'>): boolean {
  if (memory?.max === undefined || trimAtMemory === undefined) return false
  return memory.used * 100 > memory.max * trimAtMemory
}

function byAge({ first }: TrimFacts, oldest: number | undefined, floor: GroupFloor | undefined): TrimStep | undefined {
  if (oldest === undefined) return undefined
  const upTo = atMost(`${Math.max(0, oldest)}-0`, floor)
  return compareIds(first, upTo) < 0 ? { upTo, most: undefined } : undefined
}

function cutTo({ length, first, policy: { maxLength } }: TrimFacts, floor: GroupFloor | undefined): TrimPlan['cut'] {
  if (maxLength === undefined || length <= maxLength) return undefined
  const hasFinished = floor !== undefined && compareIds(first, floor.floor) < 0
  return { maxLength, finished: hasFinished ? { upTo: floor.floor, most: length - maxLength } : undefined }
}

function byNumber(facts: TrimFacts, floor: GroupFloor | undefined): TrimStep | undefined {
  const { first, policy } = facts
  const finished = finishedOf(facts)
  if (policy.maxFinished === undefined || finished === undefined) return undefined
  const most = finished - policy.maxFinished
  const upTo = notYoung(facts, floor)
  return most > 0 && compareIds(first, upTo) < 0 ? { upTo, most } : undefined
}

/** Where the number of finished entries is not known, a quarter of the time that they span. A stream that no group reads is left alone. */
function byMemory(facts: TrimFacts, floor: GroupFloor | undefined): TrimStep | undefined {
  const { first } = facts
  const upTo = notYoung(facts, floor)
  if (floor === undefined || !isShortOfMemory(facts) || compareIds(first, upTo) >= 0) return undefined
  const finished = finishedOf(facts)
  if (finished !== undefined) return finished > 0 ? { upTo, most: Math.ceil(finished * MEMORY_SHARE) } : undefined
  const [from, to] = [timeOf(first), timeOf(upTo)]
  return { upTo: from === to ? upTo : `${from + Math.ceil((to - from) * MEMORY_SHARE)}-0`, most: undefined }
}

/** How many entries every group has finished; undefined where that is not known: whose number of unfinished ones is not may have any. */
function finishedOf({ length, groups, missing }: TrimFacts): number | undefined {
  if (groups.length === 0 || missing.length > 0) return undefined
  let unfinished = 0
  for (const group of groups) {
    if (group.unfinished === undefined) return undefined
    unfinished = Math.max(unfinished, group.unfinished)
  }
  return length - unfinished
}

const notYoung = ({ now }: TrimFacts, floor: GroupFloor | undefined): EntryId =>
  atMost(`${Math.max(0, now - MIN_AGE_MS)}-0`, floor)

/** Of two steps up to the same entry. */
function larger(one: TrimStep | undefined, other: TrimStep | undefined): TrimStep | undefined {
  if (one?.most === undefined || other?.most === undefined) return one ?? other
  return other.most > one.most ? other : one
}

const atMost = (id: EntryId, floor: GroupFloor | undefined): EntryId =>
  floor !== undefined && compareIds(floor.floor, id) < 0 ? floor.floor : id

function lowest(groups: readonly GroupFloor[]): GroupFloor | undefined {
  let lowest: GroupFloor | undefined
  for (const group of groups) {
    if (lowest === undefined || compareIds(group.floor, lowest.floor) < 0) lowest = group
  }
  return lowest
}
