import { expect, test } from 'vitest'
import { describePutBack, putBackProgress } from './put-back-progress.js'

const described = (...progress: Parameters<typeof putBackProgress>) => describePutBack(putBackProgress(...progress))

test('what remains, the rate and the time left follow from what was appended since the first row', () => {
  expect(putBackProgress(1_000, 6_000, 4_000)).toEqual({
    ...{ events: 1_000, of: 6_000, remaining: 5_000, perSecond: 250, secondsLeft: 20 },
  })
  expect(described(1_000, 6_000, 4_000)).toBe(
    '1000 of 6000 events are put back, 5000 remaining, 250/s, about 20 s left.',
  )
})

test('without an appended event neither a rate nor a time is named', () => {
  expect(described(0, 6_000, 4_000)).toBe('0 of 6000 events are put back, 6000 remaining.')
})

test('less than one event a second counts as one, and the time left goes by the real rate', () => {
  expect(described(1, 11, 10_000)).toBe('1 of 11 events are put back, 10 remaining, 1/s, about 100 s left.')
})

test('more than was found, as after a batch that was sent again, leaves nothing', () => {
  expect(putBackProgress(11, 10, 1_000)).toMatchObject({ remaining: 0, secondsLeft: 0 })
})
