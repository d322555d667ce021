import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatLsn } from '../client/lsn.js'
import { parseTimelineHistory, type TimelineHistory, timelineOf } from './timeline.js'

describe('a history of timelines', () => {
  it('is read from the file that Postgres keeps', () => {
    const file = '1\t0/3000148\tno recovery target specified\n\n3\t0/5000000\tbefore 2000-01-01 00:00:00+00\n'
    expect(parseTimelineHistory(4, file)).toEqual({
      current: 4,
      switches: [
        { timeline: 1, until: 0x3000148n },
        { timeline: 3, until: 0x5000000n },
      ],
    })
  })

  it('is empty on the first timeline, which has no file', () => {
    expect(parseTimelineHistory(1, '')).toEqual({ current: 1, switches: [] })
    expect(timelineOf({ current: 1, switches: [] }, 2n ** 63n)).toBe(1)
  })

  it('gives the LSN of the switch itself to the new timeline', () => {
    const history = parseTimelineHistory(2, '1\t0/3000148\treason\n')
    expect(timelineOf(history, 0x3000147n)).toBe(1)
    expect(timelineOf(history, 0x3000148n)).toBe(2)
  })

  it('gives every LSN to the timeline in whose range it lies', () => {
    const lsns = fc.uniqueArray(fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }), { maxLength: 6 })
    fc.assert(
      fc.property(lsns, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (until, lsn) => {
        until.sort((a, b) => (a < b ? -1 : 1))
        const file = until.map((each, i) => `${i + 1}\t${formatLsn(each)}\treason\n`).join('')
        const history: TimelineHistory = parseTimelineHistory(until.length + 1, file)
        for (const at of [lsn, ...until, ...until.map((each) => each - 1n)]) {
          expect(timelineOf(history, at)).toBe(1 + until.filter((each) => each <= at).length)
        }
      }),
    )
  })
})
