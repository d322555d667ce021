import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatLsn, parseLsn } from './lsn.js'

const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })

describe('an LSN', () => {
  it.each([
    ['0/0', 0n],
    ['16/B374D848', 0x16b374d848n],
    ['0/FFFFFFFF', 0xffffffffn],
    ['1/0', 0x100000000n],
    ['FFFFFFFF/FFFFFFFF', 2n ** 64n - 1n],
  ])('%s is %d', (text, number) => {
    expect(parseLsn(text)).toBe(number)
    expect(formatLsn(number)).toBe(text)
  })

  it('is read as it was written', () => {
    fc.assert(
      fc.property(lsn, (given) => {
        expect(parseLsn(formatLsn(given))).toBe(given)
      }),
    )
  })

  it('may be written in small letters and with zeros in front', () => {
    expect(parseLsn('00000016/b374d848')).toBe(0x16b374d848n)
  })

  it.each(['', '0', '/', '0/', '/0', '0/0/0', '16-B374D848', '0/G', '123456789/0', '0/123456789', ' 0/0', '0/0\n'])(
    'is not %j',
    (text) => {
      expect(() => parseLsn(text)).toThrow('Expected an LSN such as 16/B374D848, found')
    },
  )
})
