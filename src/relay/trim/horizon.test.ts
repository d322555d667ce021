import { expect, test } from 'vitest'
import { placePrefix, positionOf, positionPrefix, requestedPosition } from '../../event/position.js'
import { trimmedOf } from './horizon.js'

const at = (lsn: bigint, timeline = 1) => positionOf(positionPrefix(timeline, lsn), 0)
const id = crypto.randomUUID()

test('rows before the first event that stays are trimmed; where none stays, those before the last that was appended', () => {
  expect(trimmedOf({ position: at(80n), id }, at(160n), 1)).toEqual({ lsn: 80n, first: id })
  expect(trimmedOf({ position: 'none', id: '' }, at(160n), 1)).toEqual({ lsn: 160n, first: undefined })
})

test('nothing is known behind an event that a repair put back, of another timeline, of no row, or that was not found', () => {
  expect(trimmedOf({ position: positionOf(placePrefix(1, 80n), 3), id }, at(160n), 1)).toBeUndefined()
  expect(trimmedOf({ position: at(80n), id }, at(160n), 2)).toBeUndefined()
  expect(trimmedOf({ position: at(80n), id: 'order-1' }, at(160n), 1)).toBeUndefined()
  expect(trimmedOf({ position: 'unknown', id: '' }, at(160n), 1)).toBeUndefined()
})

test('rows before an event that a request appended are trimmed: all that was committed before it is in the stream', () => {
  expect(trimmedOf({ position: requestedPosition(placePrefix(1, 80n), 3), id }, at(160n), 1)).toEqual({
    lsn: 79n,
    first: id,
  })
})
