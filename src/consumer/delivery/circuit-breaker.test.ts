import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { CircuitBreaker } from './circuit-breaker.js'

const CAUSE = new Error('503')

describe('the circuit breaker of a handler', () => {
  beforeEach(() => {
    vi.useFakeTimers()
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  const made = () => {
    const said: string[] = []
    const breaker = new CircuitBreaker<object>({
      onOpen: ({ message }) => said.push(`open: ${message}`),
      onClose: () => said.push('close'),
      onProbe: () => said.push('probe'),
    })
    const fail = (times: number) => {
      for (let n = 0; n < times; n++) breaker.failed(CAUSE)
    }
    return { breaker, said, fail }
  }

  it('opens after ten failures in a row, and not before', () => {
    const { breaker, said, fail } = made()
    fail(9)
    breaker.succeeded()
    fail(9)
    expect([breaker.isOpen, said]).toEqual([false, []])
    fail(1)
    expect([breaker.isOpen, said]).toEqual([true, ['open: 503']])
  })

  it('lets one probe begin after a pause, and the next only when that has ended', () => {
    const { breaker, said, fail } = made()
    fail(10)
    expect(breaker.mayProbe).toBe(false)
    vi.advanceTimersByTime(500)
    expect([breaker.mayProbe, said.at(-1)]).toEqual([true, 'probe'])
    const probe = {}
    breaker.begin(probe)
    expect([breaker.mayProbe, breaker.isProbe(probe), breaker.isProbe({})]).toEqual([false, true, false])
    // Its event has come to its end, and it says nothing of the handler: the next one at once.
    breaker.end(probe, true)
    expect(breaker.mayProbe).toBe(true)
  })

  it('pauses after a probe whose event is neither done nor failed', () => {
    const { breaker, fail } = made()
    fail(10)
    vi.advanceTimersByTime(500)
    const probe = {}
    breaker.begin(probe)
    breaker.end(probe, false)
    expect([breaker.mayProbe, breaker.isProbing]).toEqual([false, false])
    vi.advanceTimersByTime(500)
    expect(breaker.mayProbe).toBe(true)
    // What is no probe changes nothing.
    breaker.end(probe, false)
    expect(breaker.mayProbe).toBe(true)
  })

  it('lets the next probe begin when one has run for 30 s, and both of them are attempts', () => {
    const { breaker, said, fail } = made()
    fail(10)
    vi.advanceTimersByTime(500)
    const [hangs, next] = [{}, {}]
    breaker.begin(hangs)
    vi.advanceTimersByTime(29_999)
    expect([breaker.mayProbe, breaker.isProbing]).toEqual([false, true])
    said.length = 0
    vi.advanceTimersByTime(1)
    expect([breaker.mayProbe, breaker.isProbing, said]).toEqual([true, false, ['probe']])
    breaker.begin(next)
    expect([breaker.mayProbe, breaker.isProbe(hangs), breaker.isProbe(next)]).toEqual([false, true, true])
    breaker.succeeded()
    expect([breaker.isProbe(hangs), breaker.isProbing, said]).toEqual([false, false, ['probe', 'close']])
    // The one that hangs has no part in what comes after.
    fail(10)
    vi.advanceTimersByTime(500)
    expect(breaker.mayProbe).toBe(true)
  })

  it('waits longer after each probe that fails, 30 s at most, and closes when one succeeds', () => {
    const { breaker, said, fail } = made()
    fail(10)
    for (let n = 0; n < 10; n++) {
      vi.advanceTimersByTime(30_000)
      const probe = {}
      breaker.begin(probe)
      fail(1)
      breaker.end(probe, false)
      expect(breaker.mayProbe).toBe(false)
    }
    vi.advanceTimersByTime(14_000)
    expect(breaker.mayProbe).toBe(false)
    vi.advanceTimersByTime(16_000)
    expect(breaker.mayProbe).toBe(true)
    breaker.succeeded()
    expect([breaker.isOpen, breaker.mayProbe, said.at(-1)]).toEqual([false, false, 'close'])
  })

  it('begins no probe once it is stopped', () => {
    const { breaker, fail } = made()
    fail(10)
    breaker.begin({})
    breaker.stop()
    vi.advanceTimersByTime(60_000)
    expect(breaker.mayProbe).toBe(false)
  })

  it('does not open once it is stopped', () => {
    const { breaker, said, fail } = made()
    breaker.stop()
    fail(10)
    expect([breaker.isOpen, said]).toEqual([false, []])
  })
})
