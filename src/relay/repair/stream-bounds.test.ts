import { expect, test } from 'vitest'
import { placePrefix, positionOf, requestedPosition } from '../../event/position.js'
import { firstFreeIndex } from './stream-bounds.js'

test('a repair begins behind the indexes that repairs have used at its place, and below those of requests', () => {
  const prefix = placePrefix(1, 80n)
  const taken = [positionOf(prefix, 7), positionOf(placePrefix(1, 160n), 99), requestedPosition(prefix, 5)]
  expect(firstFreeIndex(prefix, taken)).toBe(8)
  expect(firstFreeIndex(prefix, [requestedPosition(prefix, 5)])).toBe(0)
})
