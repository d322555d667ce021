import { expect, test } from 'vitest'
import { canDecode, decodableLevels } from './wal-level.js'

test.each([
  [150_000, 'logical', undefined, true],
  [180_004, 'logical', undefined, true],
  [180_004, 'replica', undefined, false],
  [180_004, 'minimal', undefined, false],
  [190_000, 'minimal', 'minimal', false],
  [190_000, 'replica', 'replica', true],
  [190_000, 'replica', 'logical', true],
  [190_000, 'logical', 'logical', true],
  [200_000, 'replica', 'replica', true],
])('PostgreSQL %i with wal_level %s, effectively %s, can decode: %s', (version, configured, effective, can) => {
  expect(canDecode({ version, configured, effective })).toBe(can)
})

test('messages name each level that is enough', () => {
  expect([180_004, 190_000].map(decodableLevels)).toEqual(['logical', 'replica or logical'])
})
