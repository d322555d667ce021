import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
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
