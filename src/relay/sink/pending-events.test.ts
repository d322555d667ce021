import { describe, expect, it } from 'vitest'
import { PendingEvents } from './pending-events.js'

describe('draining pending events', () => {
  const newPending = () => new PendingEvents({ fewer: () => {}, empty: () => {} })
  const { signal } = new AbortController()

  it('resolves with true when the last event is appended, not before', async () => {
    const pending = newPending()
    pending.add(10)
    pending.add(10)
    let drained: boolean | undefined
    const draining = pending.drain(signal).then((result) => {
      drained = result
    })
    pending.count(-1, -10)
    await new Promise((resolve) => setImmediate(resolve))
    expect(drained).toBeUndefined()
    pending.count(-1, -10)
    await draining
    expect(drained).toBe(true)
  })

  it('resolves with false when the signal aborts before that', async () => {
    const pending = newPending()
    pending.add(10)
    const leaving = new AbortController()
    const draining = pending.drain(leaving.signal)
    leaving.abort()
    expect(await draining).toBe(false)
  })

  it('resolves at once where nothing waits, also with a signal that has aborted', async () => {
    expect(await newPending().drain(AbortSignal.abort())).toBe(true)
  })
})
