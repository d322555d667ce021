import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { DatabaseBreaker } from './database-breaker.js'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

describe('the database breaker', () => {
  const logs: string[] = []
  const log = {
    debug() {},
    info: (_: object, message: string) => logs.push(message),
    warn: (_: object, message: string) => logs.push(message),
    error() {},
  }
  const DOWN = 'the database cannot be used; the consumer continues once it can'
  const UP = 'the database can be used again'
  const down = new Error('the database system is shutting down')
  /** How long the breaker stays open this time. */
  const openFor = (breaker: DatabaseBreaker): number => {
    const from = performance.now()
    breaker.open(down)
    vi.advanceTimersToNextTimer()
    expect(breaker.isOpen).toBe(false)
    return performance.now() - from
  }

  beforeEach(() => {
    logs.length = 0
  })

  it('closes by itself after a pause, longer each time up to ten seconds, and never at once', () => {
    const ceilings = [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]
    const pauses: number[][] = ceilings.map(() => [])
    for (let n = 0; n < 200; n++) {
      const breaker = new DatabaseBreaker(log, () => {})
      for (const each of pauses) each.push(openFor(breaker))
    }
    for (const [n, ceiling] of ceilings.entries()) {
      const [least, most] = [Math.min(...(pauses[n] as number[])), Math.max(...(pauses[n] as number[]))]
      expect(least).toBeGreaterThanOrEqual(100)
      expect(most).toBeLessThanOrEqual(100 + ceiling)
      expect(most).toBeGreaterThan(100 + ceiling / 2)
    }
  })

  it('calls once for each pause, however many events found out for themselves', () => {
    let retries = 0
    const breaker = new DatabaseBreaker(log, () => retries++)
    for (let n = 0; n < 20; n++) breaker.open(down)
    expect(breaker.isOpen).toBe(true)
    vi.advanceTimersByTime(60_000)
    expect([breaker.isOpen, retries, logs]).toEqual([false, 1, [DOWN]])
  })

  it('logs now and then that it is open, once that it is closed, and then starts again from the first pause', () => {
    const breaker = new DatabaseBreaker(log, () => {})
    breaker.close()
    expect(logs).toEqual([])
    let seconds = 0
    while (seconds < 100) seconds += openFor(breaker) / 1_000
    // Every 30 seconds, and a pause later at most.
    expect(logs.length).toBeGreaterThanOrEqual(3)
    expect(logs.length).toBeLessThanOrEqual(4)
    expect(new Set(logs)).toEqual(new Set([DOWN]))
    logs.length = 0
    breaker.close()
    breaker.close()
    expect(logs).toEqual([UP])
    expect(openFor(breaker)).toBeLessThanOrEqual(300)
    expect(logs).toEqual([UP, DOWN])
  })

  it('calls no one once it is stopped', () => {
    let retries = 0
    const breaker = new DatabaseBreaker(log, () => retries++)
    breaker.open(down)
    breaker.stop()
    vi.advanceTimersByTime(60_000)
    expect([retries, vi.getTimerCount()]).toEqual([0, 0])
  })
})
