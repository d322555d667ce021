import { expect, test } from 'vitest'
import { placePrefix, positionOf, positionPrefix, requestedPosition } from '../../event/position.js'
import { isCutOff } from './head-ownership.js'
import { endOfLost } from './sound-end.js'

const saved = positionOf(positionPrefix(1, 72n), 0)
const place = placePrefix(1, 80n)
const reply = (position: string) =>
  ({
    status: 'BEHIND',
    error: '',
    head: { position, event: 'e', entry: '1-1' },
    session: 's',
    appended: 0,
    skipped: 0,
  }) as const

test('a head that a repair has left and that is not saved is one of a repair that was cut off; one of a request is not', () => {
  expect(isCutOff(positionOf(place, 3), saved)).toBe(true)
  expect(isCutOff(requestedPosition(place, 3), saved)).toBe(false)
})

test('what was committed before a head that is behind is in its stream, unless a repair has left it', () => {
  expect(endOfLost(reply(positionOf(place, 3)), 1)).toBeNull()
  expect(endOfLost(reply(requestedPosition(place, 3)), 1)).toBe(79n)
})
