import { describe, expect, it } from 'vitest'
import { Backpressure } from './backpressure.js'

describe('reading the replication stream', () => {
  function newBackpressure() {
    const calls: string[] = []
    const stream = { pause: () => void calls.push('pause'), resume: () => void calls.push('resume') }
    return { calls, backpressure: new Backpressure({ stream, inflightBytes: 100 }) }
  }

  it('pauses once above the budget, and resumes once at half of it', () => {
    const { calls, backpressure } = newBackpressure()
    backpressure.received(100)
    expect(calls).toEqual([])
    backpressure.received(101)
    backpressure.received(120)
    backpressure.appended(51)
    expect(calls).toEqual(['pause'])
    backpressure.appended(50)
    backpressure.appended(0)
    expect(calls).toEqual(['pause', 'resume'])
  })

  it('does not resume after a stop', () => {
    const { calls, backpressure } = newBackpressure()
    backpressure.stop()
    backpressure.appended(0)
    expect(calls).toEqual(['pause'])
  })
})
