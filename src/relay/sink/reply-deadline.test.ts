import { describe, expect, it } from 'vitest'
import { ReplyDeadline } from './reply-deadline.js'

describe('the deadline of a reply', () => {
  it('is 5 s after the batch was sent, or after the reply to the batch before it', () => {
    const deadline = new ReplyDeadline()
    expect(deadline.isPast(1_000, 6_000)).toBe(false)
    expect(deadline.isPast(1_000, 6_001)).toBe(true)
    deadline.replied(1_000, 4_000)
    expect(deadline.isPast(1_000, 9_000)).toBe(false)
    expect(deadline.isPast(1_000, 9_001)).toBe(true)
  })

  it('doubles with each timeout up to two minutes, and commands then have two minutes', () => {
    const deadline = new ReplyDeadline()
    expect(deadline.commandTimeout).toBeUndefined()
    const doubled = Array.from({ length: 6 }, () => {
      deadline.timedOut()
      return deadline.milliseconds
    })
    expect(doubled).toEqual([10_000, 20_000, 40_000, 80_000, 120_000, 120_000])
    expect(deadline.commandTimeout).toBe(120_000)
  })

  it('stays at twice what a reply takes on a slow link, and is 5 s again where replies are fast', () => {
    const deadline = new ReplyDeadline()
    deadline.timedOut()
    deadline.timedOut()
    deadline.replied(0, 8_000)
    expect(deadline.milliseconds).toBe(16_000)
    deadline.replied(8_000, 8_010)
    expect(deadline.milliseconds).toBe(5_000)
  })
})
