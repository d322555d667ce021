import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { nearestXid, SettledRows } from './settled-rows.js'

/** A Begin message: of the transaction `xid` whose commit record stands at `lsn`. */
function begin(lsn: bigint, xid: number): Buffer {
  const message = Buffer.alloc(21)
  message.write('B')
  message.writeBigUInt64BE(lsn, 1)
  message.writeUInt32BE(xid, 17)
  return message
}

/** Of a snapshot that sees all below 100 but 90, and 95; and the row that is being read. */
function rowsOf(row: { id: string; txid: string }, streams?: ReadonlySet<string>) {
  return new SettledRows({
    ...{ snapshot: '90:100:90,95', until: 1_000n, unsettled: ['90', '95', '100'], streams },
    router: { indexOf: () => 9, text: (column) => (column === 9 ? row.txid : row.id) },
  })
}

describe('rows that a repair has put back', () => {
  it.each([
    ['dropped', 'that the snapshot sees', 999n, 94, '94', 'orders', true],
    ['kept', 'of a transaction that was open', 999n, 95, '95', 'orders', false],
    ['kept', 'that were committed after the snapshot', 1_000n, 94, '94', 'orders', false],
    ['kept', 'of a transaction that began later', 999n, 101, '101', 'orders', false],
    ['kept', 'of a stream that was not repaired', 999n, 94, '94', 'users', false],
    ['kept', 'whose own txid is another', 999n, 94, '93', 'orders', false],
  ])('are %s where they are rows %s', (_outcome, _which, lsn, xid, txid, key, dropped) => {
    const settled = rowsOf({ id: 'e1', txid }, new Set(['orders']))
    settled.begin(begin(lsn, xid), 0)
    expect(settled.drops(key)).toBe(dropped)
  })

  it('are dropped in every stream where all were repaired', () => {
    const settled = rowsOf({ id: 'e1', txid: '94' })
    settled.begin(begin(1n, 94), 0)
    expect(settled.drops('any')).toBe(true)
  })

  it('are noted where they are of a transaction that was open, whenever it commits', () => {
    const row = { id: 'e1', txid: '95' }
    const settled = rowsOf(row)
    settled.begin(begin(5_000n, 95), 0)
    expect([settled.drops('orders'), settled.hasArrived('orders', 'e1')]).toEqual([false, true])
    Object.assign(row, { id: 'e2', txid: '94' })
    settled.begin(begin(1n, 94), 0)
    settled.drops('orders')
    expect(settled.hasArrived('orders', 'e2')).toBe(false)
  })

  it('are noted for their own stream alone: another one may have the same id', () => {
    const settled = rowsOf({ id: 'e1', txid: '95' })
    settled.begin(begin(5_000n, 95), 0)
    settled.drops('orders')
    expect([settled.hasArrived('orders', 'e1'), settled.hasArrived('users', 'e1')]).toEqual([true, false])
  })
})

it('the full id of a transaction is the nearest one with the same 32 bits, also where they wrap around', () => {
  fc.assert(
    fc.property(fc.bigInt(2n ** 33n, 2n ** 60n), fc.bigInt(-(2n ** 31n) + 1n, 2n ** 31n - 1n), (near, difference) => {
      const full = near + difference
      expect(nearestXid(Number(BigInt.asUintN(32, full)), near)).toBe(full)
    }),
  )
})
