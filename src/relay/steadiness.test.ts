import { expect, it } from 'vitest'
import { Steadiness } from './steadiness.js'

const STEADY = 10_000

/** Sessions one after the other: each streams for so long, in milliseconds, and ends, in a halt or not. */
function after(...sessions: { streamed: number; halted?: boolean }[]): { steadiness: Steadiness; now: number } {
  const steadiness = new Steadiness(STEADY)
  let now = 1_000
  for (const { streamed, halted = false } of sessions) {
    steadiness.streaming(now)
    now += streamed
    steadiness.ended(now, halted)
  }
  steadiness.streaming(now)
  return { steadiness, now }
}

it.each([
  ['the first session', [], 0],
  ['a session after a long one', [{ streamed: STEADY }], 0],
  ['a session after a long one that ended in a halt', [{ streamed: STEADY, halted: true }], 0],
  ['a session after one short one', [{ streamed: 100 }], 0],
  ['a session after two short ones', [{ streamed: 100 }, { streamed: 100 }], STEADY],
  ['a session after a short one that ended in a halt', [{ streamed: 100, halted: true }], STEADY],
  ['a session after short ones and a long one', [{ streamed: 1 }, { streamed: 1 }, { streamed: STEADY }], 0],
])('%s is held back for the time that the loop needs: %j', (_, sessions, expected) => {
  const { steadiness, now } = after(...sessions)
  expect(steadiness.holdsFor(now)).toBe(expected)
})

it('a session that streams for long enough is reported, and the next one at once', () => {
  const { steadiness, now } = after({ streamed: 1, halted: true })
  expect(steadiness.holdsFor(now + 4_000)).toBe(6_000)
  expect(steadiness.holdsFor(now + STEADY)).toBe(0)
  steadiness.ended(now + STEADY, true)
  steadiness.streaming(now + STEADY)
  expect(steadiness.holdsFor(now + STEADY)).toBe(0)
})

it('sessions that never streamed change nothing', () => {
  const steadiness = new Steadiness(STEADY)
  for (const now of [1, 2, 3]) steadiness.ended(now, true)
  expect(steadiness.holdsFor(4)).toBe(0)
})
