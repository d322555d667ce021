import { beforeEach, describe, expect, it } from 'vitest'
import { BlockedState } from './blocked-state.js'

describe('the reported state of a session', () => {
  let ended: AbortController
  let reports: (string | undefined)[][]
  let blocked: BlockedState

  beforeEach(() => {
    ended = new AbortController()
    reports = []
    blocked = new BlockedState({ signal: ended.signal, report: (...report) => void reports.push(report) })
  })

  const last = () => reports.at(-1)?.slice(0, 2)

  it('is blocked as long as one of the three reasons is left, and then what it was before', () => {
    blocked.setPostgres('a standby is away')
    expect(last()).toEqual(['blocked', 'standby_not_confirming'])
    blocked.setDurability('no replica')
    expect(last()).toEqual(['blocked', 'durability'])
    blocked.setRedis({ reason: 'redis_oom', message: 'OOM' })
    expect(last()).toEqual(['blocked', 'redis_oom'])
    blocked.setRedis(undefined)
    expect(last()).toEqual(['blocked', 'durability'])
    blocked.setDurability(undefined)
    expect(last()).toEqual(['blocked', 'standby_not_confirming'])
    blocked.setPostgres(undefined)
    expect(last()).toEqual(['starting', undefined])
  })

  it('is streaming once every saved head is taken over, if nothing blocks it', () => {
    blocked.setRedis({ reason: 'redis_oom', message: 'OOM' })
    blocked.setStreaming()
    expect(last()).toEqual(['blocked', 'redis_oom'])
    blocked.setRedis(undefined)
    expect(last()).toEqual(['streaming', undefined])
  })

  it('is not reported again by a round in which durability is met as before, nor after the end', () => {
    blocked.setDurability(undefined)
    blocked.setPostgres(undefined)
    ended.abort()
    blocked.setStreaming()
    expect(reports).toEqual([])
  })
})
