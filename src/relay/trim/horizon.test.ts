import { expect, test } from 'vitest'
import { placePrefix, positionOf, positionPrefix } from '../../event/position.js'
import { trimmedLsn } from './horizon.js'

const at = (lsn: bigint, timeline = 1) => positionOf(positionPrefix(timeline, lsn), 0)

test('rows before the first event that stays are trimmed; where none stays, those before the last that was appended', () => {
  expect(trimmedLsn(at(80n), at(160n), 1)).toBe(80n)
  expect(trimmedLsn('none', at(160n), 1)).toBe(160n)
})

test('nothing is known behind an event that a repair put back, of another timeline, or that was not found', () => {
  expect(trimmedLsn(positionOf(placePrefix(1, 80n), 3), at(160n), 1)).toBeUndefined()
  expect(trimmedLsn(at(80n), at(160n), 2)).toBeUndefined()
  expect(trimmedLsn('unknown', at(160n), 1)).toBeUndefined()
})
