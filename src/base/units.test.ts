import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseDuration, parseSize } from './units.js'

describe('durations', () => {
  it.each([
    ['500ms', 500],
    ['30s', 30_000],
    ['10m', 600_000],
    ['72h', 259_200_000],
    ['7d', 604_800_000],
    ['1.5s', 1_500],
    [' 2 h ', 7_200_000],
    ['250', 250],
    [250, 250],
    [0, 0],
  ])('reads %j as %d ms', (text, ms) => {
    expect(parseDuration(text)).toBe(ms)
  })

  it.each([
    '',
    's',
    '-1s',
    '1y',
    '1e3',
    '1S',
    '1 s s',
    '0.5ms',
    'constructor',
    -1,
    1.5,
    Number.NaN,
    null,
    {},
    '1toString',
  ])('refuses %j', (text) => {
    expect(parseDuration(text)).toBeUndefined()
  })
})

describe('sizes', () => {
  it.each([
    ['16MiB', 16_777_216],
    ['512KiB', 524_288],
    ['1MB', 1_000_000],
    ['1kB', 1_000],
    ['2GiB', 2_147_483_648],
    ['100B', 100],
    ['1024', 1_024],
    [1024, 1_024],
    ['0.5KiB', 512],
  ])('reads %j as %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes)
  })

  it.each(['', 'MiB', '1Mib', '1m', '-1', '0.3B', '99999999999GiB', true])('refuses %j', (text) => {
    expect(parseSize(text)).toBeUndefined()
  })
})

it('reads back every whole number in every unit', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1_000_000 }), (n) => {
      expect(parseDuration(`${n}ms`)).toBe(n)
      expect(parseDuration(`${n}m`)).toBe(n * 60_000)
      expect(parseSize(`${n}KiB`)).toBe(n * 1_024)
    }),
  )
})
