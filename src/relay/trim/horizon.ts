import { UUID } from '../../event/names.js'
import { isRepairPlace, type Position, parsePosition } from '../../event/position.js'
import type { Trimmed } from '../../postgres/state/horizons.js'
import type { FirstEvent } from '../../redis/streams/trim.js'

/**
 * How far a stream was trimmed of which `first` is the first own event that stays, and `last` the position that its head has reached.
 * Undefined: not known. What a repair put back was committed before its position, and may follow events of later commits. Pure.
 */
export function trimmedOf(first: FirstEvent, last: Position, timeline: number): Trimmed | undefined {
  const isNone = first.position === 'none'
  if (first.position === 'unknown' || (!isNone && !UUID.test(first.id))) return undefined
  const position = isNone ? last : first.position
  if (isRepairPlace(position)) return undefined
  const parts = parsePosition(position)
  return parts.timeline === timeline ? { lsn: parts.lsn, first: isNone ? undefined : first.id } : undefined
}
