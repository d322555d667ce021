import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  isPlace,
  isRepairPlace,
  isRequested,
  POSITION,
  parsePosition,
  placePrefix,
  positionOf,
  positionPrefix,
  requestedPosition,
  ZERO_POSITION,
} from './position.js'

const uint32 = fc.oneof(fc.nat({ max: 0xffffffff }), fc.nat({ max: 3 }), fc.constantFrom(0x7fffffff, 0x80000000))
const uint64 = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 3n }))
const parts = fc.record({ timeline: uint32, lsn: uint64, index: uint32 })
type Parts = { timeline: number; lsn: bigint; index: number }

const write = ({ timeline, lsn, index }: Parts) => positionOf(positionPrefix(timeline, lsn), index)
const asNumber = ({ timeline, lsn, index }: Parts) => (BigInt(timeline) << 96n) | (lsn << 32n) | BigInt(index)
const order = <T>(a: T, b: T) => (a < b ? -1 : a > b ? 1 : 0)

describe('a position', () => {
  it('is written in groups of fixed width', () => {
    expect(write({ timeline: 2, lsn: 0x16b374d848n, index: 255 })).toBe('00000002-00000016b374d848-000000ff')
    expect(write({ timeline: 0, lsn: 0n, index: 0 })).toBe(ZERO_POSITION)
  })

  it('is read as it was written', () => {
    fc.assert(
      fc.property(parts, (given) => {
        expect(write(given)).toMatch(POSITION)
        expect(parsePosition(write(given))).toEqual(given)
      }),
    )
  })

  it('orders as text, byte by byte, as it does in number: timeline, then LSN, then index', () => {
    fc.assert(
      fc.property(parts, parts, (a, b) => {
        expect(Buffer.compare(Buffer.from(write(a)), Buffer.from(write(b)))).toBe(order(asNumber(a), asNumber(b)))
        expect(order(write(a), write(b))).toBe(order(asNumber(a), asNumber(b)))
      }),
    )
  })

  it.each([
    '',
    '0-0-0',
    '00000001-0000000000000001-0000000',
    '00000001-0000000000000001-000000001',
    '00000001-000000000000000A-00000001',
    '00000001_0000000000000001_00000001',
    `${ZERO_POSITION}\n`,
  ])('is not %j', (text) => {
    expect(() => parsePosition(text)).toThrow(`Expected a position such as ${ZERO_POSITION}, found`)
  })
})

describe('the place of a repair and that of a request', () => {
  const prefix = placePrefix(1, 80n)
  const first = requestedPosition(prefix, 0)

  it('lie between the same two commits, that of the request above each of the repair', () => {
    expect([isPlace(first), isPlace(positionOf(prefix, 0)), isPlace(positionOf(positionPrefix(1, 80n), 0))]).toEqual([
      true,
      true,
      false,
    ])
    expect(first > positionOf(prefix, 0x7fffffff)).toBe(true)
    expect(first < positionOf(positionPrefix(1, 80n), 0)).toBe(true)
  })

  it('are told apart', () => {
    expect([first, positionOf(prefix, 0x7fffffff), ZERO_POSITION].map(isRequested)).toEqual([true, false, false])
    expect([first, positionOf(prefix, 0x7fffffff), ZERO_POSITION].map(isRepairPlace)).toEqual([false, true, false])
  })
})
