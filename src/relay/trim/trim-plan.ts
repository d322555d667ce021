import type { TrimPolicy } from '../../config/trimming.js'
import { compareIds, type EntryId, timeOf } from '../../event/entry-id.js'
import type { GroupFloor, TrimStep, TrimSurvey } from '../../redis/streams/trim.js'

/** A trim for the number of entries leaves those that are younger, in milliseconds: by the clock of Redis. */
export const MIN_AGE_MS = 600_000

/** What is known of a stream. */
export interface TrimFacts extends Omit<TrimSurvey, 'policies' | 'bytes'> {
  policy: Pick<TrimPolicy, 'retention' | 'maxFinished' | 'maxLength'>
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
}

/**
 * What may go of a stream. Pure.
 *
 *     first                         floor                             last
 *       | finished by every group     | a group has not finished this   |
 *       |~~~~~~~~~~~~~~~~~~|          |                                 |
 *       | goes             | retention, or as many as are too many      |
 *
 * The floor is the first id that any group has not finished: one in Redis, or one that is waited for and missing there. Without any
 * group only the age counts.
 */
export function planTrim(facts: TrimFacts): TrimPlan {
  const { now, length, first, policy } = facts
  const floor = lowest([...facts.groups, ...facts.missing])
  if (length === 0) return { step: undefined, cut: undefined, overdueMs: 0, heldBy: undefined }
  const oldest = policy.retention === undefined ? undefined : now - policy.retention
  const overdueMs = oldest === undefined ? 0 : Math.max(0, oldest - timeOf(first))
  const isHeld = floor !== undefined && overdueMs > 0 && compareIds(floor.floor, first) <= 0
  return {
    step: byAge(facts, oldest, floor) ?? byNumber(facts, floor),
    cut: cutTo(facts, floor),
    overdueMs,
    heldBy: isHeld ? floor : undefined,
  }
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

/** Whose number of unfinished entries is not known may have any. */
function byNumber(facts: TrimFacts, floor: GroupFloor | undefined): TrimStep | undefined {
  const { now, length, first, groups, missing, policy } = facts
  if (policy.maxFinished === undefined || groups.length === 0 || missing.length > 0) return undefined
  let unfinished = 0
  for (const group of groups) {
    if (group.unfinished === undefined) return undefined
    unfinished = Math.max(unfinished, group.unfinished)
  }
  const most = length - unfinished - policy.maxFinished
  const upTo = atMost(`${Math.max(0, now - MIN_AGE_MS)}-0`, floor)
  return most > 0 && compareIds(first, upTo) < 0 ? { upTo, most } : undefined
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
