/**
 * Where a row stands in the order of commits: (timeline, LSN of the commit record, index of the row in its transaction).
 * Postgres replays a transaction with the same positions, so a position names a row for ever.
 *
 * Written as fixed-width hexadecimal groups, `tttttttt-llllllllllllllll-iiiiiiii`: the text order is then the numeric
 * order, in a bytewise collation. It is published as the CloudEvents extension `sequence`, and compared in append.lua
 * as four 32-bit numbers, because Lua compares strings by locale.
 */
export type Position = string

/** Below every position: the start of a chain that has no head yet. */
export const ZERO_POSITION: Position = '00000000-0000000000000000-00000000'

/** Its length as text, in bytes. */
export const POSITION_BYTES = ZERO_POSITION.length

export const POSITION = /^[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{8}$/

/** The part that all rows of one transaction share. */
export const positionPrefix = (timeline: number, commitLsn: bigint): string =>
  `${hex8(timeline)}-${commitLsn.toString(16).padStart(16, '0')}-`

/** `prefix` from `positionPrefix`, `index` counted from 0. */
export const positionOf = (prefix: string, index: number): Position => prefix + hex8(index)

/**
 * A position that no row of WAL has: commit records begin at multiples of 8. Above every row that was committed before
 * `lsn`, and below every later one. Events that are appended from the table have positions of it.
 */
export const placePrefix = (timeline: number, lsn: bigint): string => positionPrefix(timeline, ((lsn + 7n) & ~7n) - 1n)

/** Is it one of `placePrefix`? */
export const isPlace = (position: Position): boolean =>
  position !== ZERO_POSITION && (parsePosition(position).lsn & 7n) === 7n

/** At a place, indexes from here on are those of events that a request appends; the others are a repair's. */
const FIRST_REQUESTED = 0x8000_0000

/** The position of an event that a request appends. `prefix` from `placePrefix`, `index` counted from 0. */
export const requestedPosition = (prefix: string, index: number): Position =>
  positionOf(prefix, FIRST_REQUESTED + index)

/**
 * Did a repair append at it, or move a head to it? What a repair puts into a stream was committed before its position and may have
 * followed events of later commits. Where a request appends, everything that was committed before is in the stream.
 */
export const isRepairPlace = (position: Position): boolean =>
  isPlace(position) && parsePosition(position).index < FIRST_REQUESTED

/** Did a request append at it? */
export const isRequested = (position: Position): boolean => isPlace(position) && !isRepairPlace(position)

interface PositionParts {
  timeline: number
  lsn: bigint
  index: number
}

/** Takes a position apart. Throws on anything that is not one. */
export function parsePosition(position: Position): PositionParts {
  if (!POSITION.test(position)) {
    throw new TypeError(`Expected a position such as ${ZERO_POSITION}, found ${JSON.stringify(position)}.`)
  }
  return {
    timeline: Number.parseInt(position.slice(0, 8), 16),
    lsn: BigInt(`0x${position.slice(9, 25)}`),
    index: Number.parseInt(position.slice(26), 16),
  }
}

const hex8 = (value: number): string => value.toString(16).padStart(8, '0')
