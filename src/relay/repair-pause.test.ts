import { expect, it } from 'vitest'
import { RepairPause } from './repair-pause.js'

type Ended = 'repaired' | 'did not lead' | { streamed: number }

/** The pause after each of these sessions. */
function pauses(...sessions: Ended[]): number[] {
  const pause = new RepairPause()
  let now = 1_000
  return sessions.map((session) => {
    if (session === 'repaired') pause.repairing()
    else if (session !== 'did not lead') {
      pause.streaming(now)
      now += session.streamed
      pause.streaming(now)
    }
    now += 1
    expect(pause.ended(now)).toBe(session === 'repaired')
    return pause.milliseconds
  })
}

it('the pause doubles with each repair, from 1 s to 60 s', () => {
  const repairs = Array<Ended>(9).fill('repaired')
  expect(pauses(...repairs)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000])
})

it('sessions that stream for a short time, or not at all, change nothing', () => {
  expect(
    pauses('did not lead', { streamed: 500_000 }, 'repaired', 'did not lead', { streamed: 59_000 }, 'repaired'),
  ).toEqual([0, 0, 1_000, 1_000, 1_000, 2_000])
})

it('after a session that streamed for 60 s there is no pause', () => {
  expect(pauses('repaired', 'repaired', { streamed: 60_000 }, 'repaired')).toEqual([1_000, 2_000, 0, 1_000])
})
