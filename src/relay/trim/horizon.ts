import { isPlace, type Position, parsePosition } from '../../event/position.js'
import type { Lsn } from '../../postgres/client/lsn.js'

/**
 * The LSN below which everything of a stream goes, where `first` is the position of the first own event that stays, and `last` that of the
 * last one that was appended. Undefined: not known. What a repair put back was committed before its position, and may follow events of
 * later commits. Pure.
 */
export function trimmedLsn(first: Position | 'none' | 'unknown', last: Position, timeline: number): Lsn | undefined {
  if (first === 'unknown') return undefined
  const position = first === 'none' ? last : first
  if (isPlace(position)) return undefined
  const parts = parsePosition(position)
  return parts.timeline === timeline ? parts.lsn : undefined
}
