import { getEventListeners } from 'node:events'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { backoff, pause } from './backoff.js'

describe('the pause before another attempt', () => {
  it('doubles with each attempt up to the cap, and is somewhere in its upper half', () => {
    expect([1, 2, 3, 4, 5].map((attempt) => backoff(attempt, 100, 1_000, () => 1))).toEqual([100, 200, 400, 800, 1_000])
    expect([1, 2, 3, 4, 5].map((attempt) => backoff(attempt, 100, 1_000, () => 0))).toEqual([50, 100, 200, 400, 500])
  })

  it('never leaves its bounds, however many attempts there were', () => {
    const attempt = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 2 ** 31 }))
    fc.assert(
      fc.property(attempt, fc.double({ min: 0, max: 1, noNaN: true }), (n, random) => {
        const milliseconds = backoff(n, 100, 5_000, () => random)
        expect(milliseconds).toBeGreaterThanOrEqual(50)
        expect(milliseconds).toBeLessThanOrEqual(5_000)
      }),
    )
  })

  it('ends at the signal, without an error', async () => {
    const stop = new AbortController()
    const pausing = pause(600_000, stop.signal)
    stop.abort()
    await expect(pausing).resolves.toBeUndefined()
    await expect(pause(600_000, stop.signal)).resolves.toBeUndefined()
  })

  it('takes one listener of a signal, however many pauses it ends, and none once they are over', async () => {
    const stop = new AbortController()
    const brief = Array.from({ length: 20 }, () => pause(1, stop.signal))
    const long = Array.from({ length: 20 }, () => pause(600_000, stop.signal))
    expect(getEventListeners(stop.signal, 'abort')).toHaveLength(1)
    await Promise.all(brief)
    expect(getEventListeners(stop.signal, 'abort')).toHaveLength(1)
    stop.abort()
    await Promise.all(long)
    expect(getEventListeners(stop.signal, 'abort')).toHaveLength(0)
  })
})
