import { describe, expect, it } from 'vitest'
import { ServerClock } from './server-clock.js'

const MINUTE = 60_000
const HOUR = 60 * MINUTE

describe('the clock of the server', () => {
  it('is trusted while it goes as fast as the clock of the process, by a few minutes', () => {
    const clock = new ServerClock()
    expect([clock.read(1_000_000_000, 0), clock.read(1_000_000_000 + MINUTE, MINUTE)]).toEqual([true, true])
    expect(clock.read(1_000_000_000 + 12 * MINUTE, 3 * MINUTE)).toBe(true)
  })

  it.each([10 * MINUTE + 1, -10 * MINUTE - 1, 100 * HOUR])(
    'is not trusted for a day after it was set by %d ms',
    (step) => {
      const clock = new ServerClock()
      clock.read(1_000_000_000, 0)
      const at = (own: number) => clock.read(1_000_000_000 + step + own, own)
      expect([at(MINUTE), at(2 * MINUTE), at(24 * HOUR)]).toEqual([false, false, false])
      expect(at(24 * HOUR + MINUTE)).toBe(true)
    },
  )
})
