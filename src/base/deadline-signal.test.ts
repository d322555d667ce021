import { once } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { deadlineSignal } from './deadline-signal.js'

describe('a signal with a deadline', () => {
  it('aborts when the time is over, whatever the garbage collector has done meanwhile', async () => {
    setFlagsFromString('--expose-gc')
    const collect: () => void = runInNewContext('gc')
    const signal = deadlineSignal(100, new AbortController().signal)
    const aborted = once(signal, 'abort')
    for (let n = 0; n < 5; n++) {
      await new Promise(setImmediate)
      collect()
    }
    await aborted
    expect(signal.reason).toMatchObject({ name: 'TimeoutError' })
  })

  it('aborts with the other signal', () => {
    const controller = new AbortController()
    const signal = deadlineSignal(60_000, controller.signal)
    controller.abort()
    expect(signal.aborted).toBe(true)
  })
})
