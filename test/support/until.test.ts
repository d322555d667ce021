import { describe, expect, it } from 'vitest'
import { until } from '../../testkit/services/index.js'

describe('until', () => {
  it('returns what the condition returns, once it is something', async () => {
    let calls = 0
    expect(await until(() => ++calls === 3 && 'three')).toBe('three')
  })

  it('gives up with what was awaited and the last error, even if the condition hangs', async () => {
    const cause = new Error('not yet')
    const failing = until(() => Promise.reject(cause), { timeout: 30, message: () => 'the end of the world' })
    await expect(failing).rejects.toMatchObject({ message: 'Expected within 30 ms: the end of the world', cause })
    await expect(until(() => new Promise<true>(() => {}), { timeout: 30 })).rejects.toThrow('within 30 ms')
  })
})
