import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../../test/support/any-text.js'
import {
  beginMessage,
  commitMessage,
  insertMessage,
  readInsert,
  relationMessage,
} from '../../../test/support/pgoutput-messages.js'
import { beginLsn, beginTime, commitEndLsn, insertOid, MessageType, readRelation } from './pgoutput.js'

const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const oid = fc.nat({ max: 0xffffffff })
const name = anyText.map((each) => each.replaceAll('\0', ''))
const relation = fc
  .record({ oid, schema: name, table: name, columns: fc.array(fc.tuple(name, oid)) })
  .map(({ columns, ...rest }) => ({
    ...rest,
    columns: columns.map(([column]) => column),
    types: columns.map(([, type]) => type),
  }))
const row = fc.array(fc.option(anyText))

/** The same bytes in the middle of others, as they lie in a buffer that a socket filled. */
function amid(message: Buffer): Buffer {
  const around = Buffer.concat([Buffer.alloc(7, 'n'), message, Buffer.alloc(64, 't')])
  return around.subarray(7, 7 + message.length)
}

/** Every slot wants the column of its own index. */
const everyColumn = (count: number) => Int8Array.from({ length: count }, (_, i) => i)

function read(message: Buffer, count: number): (string | null)[] {
  const into: (string | null)[] = new Array(count).fill('left as it was')
  readInsert(message, everyColumn(count), into)
  return into
}

describe('a message', () => {
  it('bears its type in its first byte', () => {
    expect(beginMessage(0n, 0n)[0]).toBe(MessageType.begin)
    expect(commitMessage(0n, 0n)[0]).toBe(MessageType.commit)
    expect(relationMessage({ oid: 1, schema: '', table: '', columns: [], types: [] })[0]).toBe(MessageType.relation)
    expect(insertMessage(1, [])[0]).toBe(MessageType.insert)
  })

  it('Begin tells where the transaction stands, Commit where it ends', () => {
    fc.assert(
      fc.property(uint64, uint64, (lsn, end) => {
        expect(beginLsn(amid(beginMessage(lsn, 0n)))).toBe(lsn)
        expect(commitEndLsn(amid(commitMessage(lsn, end)))).toBe(end)
      }),
    )
  })

  it('Begin tells the time of the commit in milliseconds since 1970', () => {
    expect(beginTime(beginMessage(0n, 0n))).toBe(Date.UTC(2000, 0, 1))
    const microseconds = BigInt(Date.UTC(2026, 10, 23, 20) - Date.UTC(2000, 0, 1)) * 1000n
    expect(beginTime(beginMessage(0n, microseconds))).toBe(Date.UTC(2026, 10, 23, 20))
    expect(beginTime(beginMessage(0n, -1_000_000n))).toBe(Date.UTC(1999, 11, 31, 23, 59, 59))
  })
})

describe('a Relation message', () => {
  it('is read as it was written, whatever the names', () => {
    fc.assert(
      fc.property(relation, (given) => {
        expect(readRelation(amid(relationMessage(given)))).toEqual(given)
      }),
    )
  })

  it('that is cut off anywhere throws, and nothing behind it is read', () => {
    fc.assert(
      fc.property(relation, fc.nat(), (given, at) => {
        const whole = amid(relationMessage(given))
        expect(() => readRelation(whole.subarray(0, at % whole.length))).toThrow(RangeError)
      }),
    )
  })
})

describe('an Insert message', () => {
  it('is read as it was written: any columns, nulls, any text', () => {
    fc.assert(
      fc.property(oid, row, (table, values) => {
        const message = amid(insertMessage(table, values))
        expect(insertOid(message)).toBe(table)
        expect(read(message, values.length)).toEqual(values)
      }),
    )
  })

  it('gives each column to the slot that takes it, in any order, and steps over the others', () => {
    const wanted = fc
      .array(fc.record({ value: fc.option(anyText), wanted: fc.boolean() }), { maxLength: 20 })
      .chain((columns) => {
        const slots = columns.flatMap((column, i) => (column.wanted ? [i] : []))
        return fc.record({
          columns: fc.constant(columns),
          order: fc.shuffledSubarray(slots, { minLength: slots.length, maxLength: slots.length }),
        })
      })
    fc.assert(
      fc.property(wanted, ({ columns, order }) => {
        const slots = Int8Array.from(columns, (_, i) => order.indexOf(i))
        const into: (string | null)[] = new Array(order.length + 1).fill('left as it was')
        readInsert(
          amid(
            insertMessage(
              1,
              columns.map(({ value }) => value),
            ),
          ),
          slots,
          into,
        )
        expect(into).toEqual([...order.map((i) => columns[i]?.value), 'left as it was'])
      }),
    )
  })

  it('that is cut off anywhere throws, and nothing behind it is read', () => {
    fc.assert(
      fc.property(row, fc.nat(), (values, at) => {
        const whole = amid(insertMessage(1, values))
        expect(() => read(whole.subarray(0, at % whole.length), values.length)).toThrow(RangeError)
      }),
    )
  })

  it('with another number of columns than its Relation message said throws', () => {
    const message = insertMessage(1, ['a', null])
    expect(() => read(message, 3)).toThrow('Expected a row of 3 columns as its Relation message said, found 2.')
    expect(() => read(message, 1)).toThrow('found 2.')
  })

  it.each(['u', 'b', 'x'])('with a column of kind %s throws: pgoutput writes none such for an insert', (kind) => {
    const message = insertMessage(1, [null])
    message.write(kind, message.length - 1)
    expect(() => read(message, 1)).toThrow(`Expected column 0 of an inserted row as text or null, found kind`)
  })

  it('with a length beyond its end throws', () => {
    const message = insertMessage(1, ['abc'])
    message.writeUInt32BE(0xffffffff, message.length - 7)
    expect(() => read(message, 1)).toThrow('Expected column 0 to end within its row, found it cut off.')
  })

  it('that no slot takes is still checked to its end', () => {
    const message = insertMessage(1, ['abc'])
    expect(() => readInsert(message.subarray(0, -1), Int8Array.of(-1), [])).toThrow(RangeError)
    const unused: (string | null)[] = []
    readInsert(message, Int8Array.of(-1), unused)
    expect(unused).toEqual([])
  })
})
