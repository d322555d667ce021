import { describe, expect, it } from 'vitest'
import { placePrefix, positionOf, positionPrefix, requestedPosition, ZERO_POSITION } from '../../event/position.js'
import { parseLsn } from '../../postgres/client/lsn.js'
import { chainStart, isPhantom, type ServerWal } from './server-wal.js'

const at = (timeline: number, lsn: string) => positionOf(positionPrefix(timeline, parseLsn(lsn)), 0)
const headAt = (position: string) => ({ position, event: 'e1', entry: '1-0' })

/** On timeline 3, which left 2 at 0/5000, which left 1 at 0/3000; confirmed up to 0/7000, written up to 0/9000. */
const server: ServerWal = {
  history: {
    current: 3,
    switches: [
      { timeline: 1, until: parseLsn('0/3000') },
      { timeline: 2, until: parseLsn('0/5000') },
    ],
  },
  lsn: parseLsn('0/9000'),
  confirmed: parseLsn('0/7000'),
}
const SAVED = at(3, '0/6000')

describe('a phantom', () => {
  it.each([
    ['an event of an older timeline, from before this server left it', at(1, '0/2FFF'), false],
    ['an event of an older timeline, from where this server left it', at(1, '0/3000'), true],
    ['an event of an older timeline, from beyond', at(2, '0/8000'), true],
    ['an event of the timeline before, from before the switch', at(2, '0/4FFF'), false],
    ['an event of this timeline', at(3, '0/8000'), false],
  ])('%s: %s is one: %s', (_, position, phantom) => {
    expect(isPhantom(position, server)).toBe(phantom)
  })

  it('is nothing on a server that was never promoted', () => {
    const first = { ...server, history: { current: 1, switches: [] } }
    expect(isPhantom(at(1, '0/8000'), first)).toBe(false)
  })
})

describe('the chain at a head that an earlier session left', () => {
  const chain = (position: string) => chainStart(headAt(position), SAVED, server)

  it('begins at what is saved where there is no head: whatever was saved and is gone is then found missing', () => {
    expect(chain(ZERO_POSITION)).toBe(SAVED)
    expect(chainStart(headAt(ZERO_POSITION), ZERO_POSITION, server)).toBe(ZERO_POSITION)
  })

  it.each(['0/7000', '0/8000', '0/8FF8'])('begins at what is saved when the head, at %s, is sent again', (lsn) => {
    expect(chain(at(3, lsn))).toBe(SAVED)
  })

  it.each(['0/6000', '0/6FF8'])('begins at the head when it, at %s, is confirmed and does not come again', (lsn) => {
    expect(chain(at(3, lsn))).toBe(at(3, lsn))
  })

  it('begins at a head that a repair has left, though what follows it is sent again', () => {
    const place = positionOf(placePrefix(3, parseLsn('0/7000')), 5)
    expect(place).toBe(at(3, '0/6FFF').replace(/0{8}$/, '00000005'))
    expect(chain(place)).toBe(place)
  })

  it('begins at a head that a request has left: what comes again below it is in the stream', () => {
    const place = requestedPosition(placePrefix(3, parseLsn('0/8000')), 5)
    expect(chain(place)).toBe(place)
  })

  it('begins at the head when this server never had its commit', () => {
    expect(chain(at(2, '0/8000'))).toBe(at(2, '0/8000'))
  })

  it('begins at what is saved when an older timeline wrote the head before the switch, and it is sent again', () => {
    const behind = { ...server, confirmed: parseLsn('0/4000') }
    expect(chainStart(headAt(at(2, '0/4800')), at(2, '0/3800'), behind)).toBe(at(2, '0/3800'))
  })

  it.each([
    ['lies beyond the WAL of this server', at(3, '0/9001')],
    ['lies where this server has written nothing yet', at(3, '0/9000')],
    ['is of a timeline that this server has not reached', at(4, '0/1000')],
  ])('begins nowhere when the head %s', (_, position) => {
    expect(chain(position)).toBeUndefined()
  })
})
