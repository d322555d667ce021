import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Gate } from './gate.js'
import { Timers } from './timers.js'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

describe('timers', () => {
  it('go off once, in their time; a new one of a thing takes the place of its old one', () => {
    const timers = new Timers<string>()
    const gone: string[] = []
    timers.set('a', 1_000, () => gone.push('a, replaced'))
    timers.set('b', 2_000, () => gone.push('b'))
    timers.set('a', 3_000, () => gone.push('a'))
    vi.advanceTimersByTime(2_999)
    expect(gone).toEqual(['b'])
    vi.advanceTimersByTime(60_000)
    expect(gone).toEqual(['b', 'a'])
  })

  it('do not go off once they are cleared or all are stopped, and are not set any more', () => {
    const timers = new Timers<string>()
    const gone: string[] = []
    for (const thing of ['a', 'b']) timers.set(thing, 1_000, () => gone.push(thing))
    timers.clear('a')
    timers.clear('unknown')
    vi.advanceTimersByTime(1_000)
    expect(gone).toEqual(['b'])
    timers.set('c', 1_000, () => gone.push('c'))
    timers.stop()
    timers.set('d', 1_000, () => gone.push('d'))
    vi.advanceTimersByTime(60_000)
    expect(gone).toEqual(['b'])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('wait for as long as a timer can, where they are to wait for longer, and not for no time at all', () => {
    const timers = new Timers<string>()
    const gone: string[] = []
    timers.set('a', 2 ** 40, () => gone.push('a'))
    vi.advanceTimersByTime(24 * 3_600_000)
    expect(gone).toEqual([])
  })
})

describe('the gate', () => {
  const logs: string[] = []
  const log = {
    debug() {},
    info: (_: object, message: string) => logs.push(message),
    warn: (_: object, message: string) => logs.push(message),
    error() {},
  }
  const DOWN = 'the database cannot be used; the consumer goes on once it can'
  const UP = 'the database can be used again'
  const down = new Error('the database system is shutting down')
  /** How long the gate stays closed this time. */
  const closedFor = (gate: Gate): number => {
    const from = performance.now()
    gate.close(down)
    vi.advanceTimersToNextTimer()
    expect(gate.closed).toBe(false)
    return performance.now() - from
  }

  beforeEach(() => {
    logs.length = 0
  })

  it('opens by itself after a pause, longer each time up to ten seconds, and never at once', () => {
    const ceilings = [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]
    const pauses: number[][] = ceilings.map(() => [])
    for (let n = 0; n < 200; n++) {
      const gate = new Gate(log, () => {})
      for (const each of pauses) each.push(closedFor(gate))
    }
    for (const [n, ceiling] of ceilings.entries()) {
      const [least, most] = [Math.min(...(pauses[n] as number[])), Math.max(...(pauses[n] as number[]))]
      expect(least).toBeGreaterThanOrEqual(100)
      expect(most).toBeLessThanOrEqual(100 + ceiling)
      expect(most).toBeGreaterThan(100 + ceiling / 2)
    }
  })

  it('calls once for each pause, however many events found out for themselves', () => {
    let opened = 0
    const gate = new Gate(log, () => opened++)
    for (let n = 0; n < 20; n++) gate.close(down)
    expect(gate.closed).toBe(true)
    vi.advanceTimersByTime(60_000)
    expect([gate.closed, opened, logs]).toEqual([false, 1, [DOWN]])
  })

  it('says now and then that it is closed, and once that it is open again; then it begins anew', () => {
    const gate = new Gate(log, () => {})
    gate.open()
    expect(logs).toEqual([])
    let seconds = 0
    while (seconds < 100) seconds += closedFor(gate) / 1_000
    // Every 30 seconds, and a pause later at most.
    expect(logs.length).toBeGreaterThanOrEqual(3)
    expect(logs.length).toBeLessThanOrEqual(4)
    expect(new Set(logs)).toEqual(new Set([DOWN]))
    logs.length = 0
    gate.open()
    gate.open()
    expect(logs).toEqual([UP])
    expect(closedFor(gate)).toBeLessThanOrEqual(300)
    expect(logs).toEqual([UP, DOWN])
  })

  it('calls nobody once it is stopped', () => {
    let opened = 0
    const gate = new Gate(log, () => opened++)
    gate.close(down)
    gate.stop()
    vi.advanceTimersByTime(60_000)
    expect([opened, vi.getTimerCount()]).toEqual([0, 0])
  })
})
