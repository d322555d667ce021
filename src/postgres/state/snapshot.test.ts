import { expect, test } from 'vitest'
import { fullXid, Snapshot } from './snapshot.js'

test('a snapshot sees what had ended when it was taken', () => {
  const snapshot = new Snapshot('10:20:10,14,18446744073')
  expect([9n, 10n, 11n, 14n, 19n, 20n, 21n].map((xid) => snapshot.sees(xid))).toEqual([
    ...[true, false, true, false, true, false, false],
  ])
  expect(new Snapshot('10:10:').sees(9n)).toBe(true)
  expect(new Snapshot('10:10:').sees(10n)).toBe(false)
  expect(() => new Snapshot('10')).toThrow('Expected a snapshot')
})

test('32 bits of a transaction id become the newest id that was given', () => {
  const epoch = 1n << 32n
  expect(fullXid(5n, 9n)).toBe(5n)
  expect(fullXid(5n, epoch + 9n)).toBe(epoch + 5n)
  expect(fullXid(9n, epoch + 9n)).toBe(9n)
  expect(fullXid(0xffff_fff0n, 3n * epoch + 9n)).toBe(2n * epoch + 0xffff_fff0n)
  // The bootstrap transaction, and rows that were frozen long ago.
  expect([fullXid(1n, 3n * epoch + 9n), fullXid(2n, 9n)]).toEqual([0n, 0n])
})
