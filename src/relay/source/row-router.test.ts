import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../../test/support/any-text.js'
import { insertMessage } from '../../../test/support/pgoutput-messages.js'
import type { OutboxMapping } from '../../config/schema.js'
import { Column } from '../../event/envelope.js'
import { STREAM_NAME } from '../../event/names.js'
import { ColumnMissingError, RowRouter } from './row-router.js'

const OID = 16_384
/** The oid of the type text. */
const TEXT = 25

const OWN: OutboxMapping = {
  table: 'outrider.outbox',
  stream: '{stream}',
  columns: { id: 'id', type: 'type', subject: 'subject', data: 'data' },
}
/** As Debezium lays it out, with a column that serves twice. */
const DEBEZIUM: OutboxMapping = {
  table: 'public.outbox_event',
  stream: 'shop.{aggregatetype}.v{version}',
  columns: { id: 'id', type: 'type', subject: 'aggregateid', correlationId: 'aggregateid', data: 'payload' },
}

type Row = Record<string, string | null>

/** A router that has been told of its table, with the columns in this order. */
function routerFor(mapping: OutboxMapping, columns: string[], partitions: Record<string, number> = {}): RowRouter {
  const router = new RowRouter(mapping, partitions)
  announce(router, mapping, columns)
  return router
}

function announce(router: RowRouter, { table }: Pick<OutboxMapping, 'table'>, columns: string[], oid = OID): void {
  const [schema, name] = table.split('.') as [string, string]
  router.relation({ oid, schema, table: name, columns, types: columns.map(() => TEXT) })
}

/** Reads a row whose columns come in the order of its keys. */
const read = (router: RowRouter, row: Row, oid = OID) => router.read(insertMessage(oid, Object.values(row)), oid)

/** The key that a row of Outrider's own table is routed to. */
function keyOf(row: Row, partitions: Record<string, number> = {}): string | undefined {
  const full: Row = { id: 'e1', type: 'order.placed', subject: null, data: null, stream: 'orders', ...row }
  const router = routerFor(OWN, Object.keys(full), partitions)
  expect(read(router, full)).toBe(true)
  return router.key()
}

describe('the columns of a row', () => {
  const row = fc.record({
    id: anyText,
    type: anyText,
    aggregateid: fc.option(anyText),
    payload: fc.option(anyText),
    aggregatetype: fc.option(anyText),
    version: fc.option(anyText),
    unmapped: fc.option(anyText),
  })
  const names = ['id', 'type', 'aggregateid', 'payload', 'aggregatetype', 'version', 'unmapped'] as const
  const order = fc.shuffledSubarray([...names], { minLength: names.length })

  it('are found by name, in whatever order the table has them, and nothing of the row before remains', () => {
    fc.assert(
      fc.property(order, fc.array(row, { minLength: 1, maxLength: 4 }), (columns, rows) => {
        const router = routerFor(DEBEZIUM, columns)
        for (const each of rows) {
          read(router, Object.fromEntries(columns.map((name) => [name, each[name]])))
          expect(router.text(Column.id)).toBe(each.id)
          expect(router.text(Column.type)).toBe(each.type)
          expect(router.text(Column.subject)).toBe(each.aggregateid)
          expect(router.text(Column.correlationId)).toBe(each.aggregateid)
          expect(router.text(Column.data)).toBe(each.payload)
          for (const unmapped of ['schemaVersion', 'causationId', 'headers', 'time'] as const) {
            expect(router.text(Column[unmapped])).toBeNull()
          }
          const known = each.aggregatetype !== null && each.version !== null
          expect(router.stream()).toBe(known ? `shop.${each.aggregatetype}.v${each.version}` : undefined)
          const { unmapped: _, ...kept } = each
          expect(router.content()).toEqual({ row: kept, omitted: {} })
        }
      }),
    )
  })

  it.each([
    ['json', 114, true],
    ['jsonb', 3802, true],
    ['text', 25, false],
    ['bytea', 17, false],
  ])('of type %s: whether the server has checked that data is JSON is known', (_, type, checked) => {
    const router = new RowRouter(OWN, {})
    const columns = ['id', 'type', 'subject', 'stream', 'data']
    router.relation({ oid: OID, schema: 'outrider', table: 'outbox', columns, types: [TEXT, TEXT, TEXT, TEXT, type] })
    read(router, { id: 'e1', type: 't', subject: null, stream: 'orders', data: '{}' })
    expect(router.dataIsJson).toBe(checked)
  })

  it('are followed when the table is altered between two rows', () => {
    const router = routerFor(OWN, ['id', 'type', 'subject', 'data', 'stream'])
    read(router, { id: 'e1', type: 't1', subject: 's1', data: 'd1', stream: 'orders' })
    announce(router, OWN, ['stream', 'added', 'data', 'subject', 'type', 'id'])
    read(router, { stream: 'bills', added: 'x', data: 'd2', subject: null, type: 't2', id: 'e2' })
    const row = { id: 'e2', type: 't2', subject: null, data: 'd2', stream: 'bills' }
    expect(router.content()).toEqual({ row, omitted: {} })
  })

  it('that are larger than asked for are not read: null in every attribute they serve, and known by their size', () => {
    const router = routerFor(DEBEZIUM, ['id', 'type', 'aggregateid', 'payload', 'aggregatetype', 'version'])
    const row = { id: 'e1', type: 't', aggregateid: 'ΩΩΩ', payload: 'Ωx', aggregatetype: 'order', version: '1' }
    router.read(insertMessage(OID, Object.values(row)), OID, 5)
    expect(router.text(Column.subject)).toBeNull()
    expect(router.text(Column.correlationId)).toBeNull()
    expect(router.text(Column.data)).toBe('Ωx')
    expect(router.stream()).toBe('shop.order.v1')
    const { aggregateid: _, ...small } = row
    expect(router.content()).toEqual({ row: small, omitted: { aggregateid: 6 } })
    read(router, row)
    expect(router.content()).toEqual({ row, omitted: {} })
  })

  it('must all be there: what is missing is said by name, with what to do', () => {
    const announced = () => routerFor(DEBEZIUM, ['id', 'type', 'payload', 'aggregatetype'])
    expect(announced).toThrow(ColumnMissingError)
    expect(announced).toThrow(
      'Expected the columns aggregateid, version in public.outbox_event, found id, type, payload, aggregatetype. These rows were written without them',
    )
  })
})

describe('the rows of a table', () => {
  const COLUMNS = ['id', 'type', 'subject', 'data', 'stream']

  it('that is not the outbox are an error, whatever columns it has; that it exists is none', () => {
    const router = routerFor(OWN, COLUMNS)
    for (const [i, table] of ['outrider.outbox_old', 'public.outbox', 'Outrider.outbox'].entries()) {
      announce(router, { table }, ['id'], i)
      expect(() => read(router, { id: 'e1' }, i)).toThrow(
        `Expected rows of the outbox table, found one of ${table} (oid ${i}).`,
      )
    }
  })

  it('that an operator has decided to skip are passed over', () => {
    const router = new RowRouter(OWN, {}, { ours: [], skipped: [7] })
    announce(router, { table: 'public.other' }, ['id'], 7)
    expect(read(router, { id: 'e1' }, 7)).toBe(false)
  })

  it('that was renamed are read: it is the same table by its oid; and one of its name, whatever its oid', () => {
    const router = new RowRouter(OWN, {}, { ours: [7], skipped: [] })
    announce(router, { table: 'app.events' }, COLUMNS, 7)
    announce(router, OWN, COLUMNS, 8)
    const row = { id: 'e1', type: 't', subject: null, data: null, stream: 'orders' }
    expect(read(router, row, 7)).toBe(true)
    expect(read(router, row, 8)).toBe(true)
  })

  it('that was never described are an error: no row is skipped', () => {
    expect(() => read(new RowRouter(OWN, {}), { id: 'e1' })).toThrow(
      `Expected a Relation message before the rows of table ${OID}, found none.`,
    )
  })
})

describe('the stream of a row', () => {
  it('is the one it names', () => {
    expect(keyOf({ stream: 'orders' })).toBe('orders')
    expect(routerFor({ ...OWN, stream: 'fixed' }, ['id', 'type', 'subject', 'data']).stream()).toBe('fixed')
  })

  it('takes the same column into its name that is an attribute, too', () => {
    const router = routerFor({ ...OWN, stream: 'by.{type}' }, ['id', 'type', 'subject', 'data'])
    read(router, { id: 'e1', type: 'order', subject: null, data: null })
    expect(router.key()).toBe('by.order')
    expect(router.text(Column.type)).toBe('order')
  })

  it('is none where the name is not one that a stream may bear, or null', () => {
    for (const stream of ['', 'outrider', 'or ders', 'orders:1', '-', 'orders\n', 'a'.repeat(201), null]) {
      expect(keyOf({ stream })).toBeUndefined()
    }
    fc.assert(
      fc.property(anyText, (stream) => {
        expect(keyOf({ stream })).toBe(STREAM_NAME.test(stream) ? stream : undefined)
      }),
    )
  })

  it.each(['constructor', 'toString', 'hasOwnProperty', 'valueOf'])('may be called %s', (stream) => {
    expect(keyOf({ stream })).toBe(stream)
  })
})

describe('the partition of a row', () => {
  const partitions = { orders: 16, bills: 3 }

  it.each([
    ['orders', 'order-42', 'orders:14'],
    ['bills', 'order-42', 'bills:1'],
    ['orders', 'Zoë', 'orders:10'],
    ['orders', '', 'orders:0'],
    ['unpartitioned', 'order-42', 'unpartitioned'],
  ])('of stream %s and subject %j is, for ever, %s', (stream, subject, key) => {
    expect(keyOf({ stream, subject }, partitions)).toBe(key)
  })

  it('is the same for the same subject, whatever else the row holds, and one that there is', () => {
    fc.assert(
      fc.property(anyText, anyText, anyText, fc.integer({ min: 1, max: 64 }), (subject, one, other, count) => {
        const key = keyOf({ id: one, subject, data: one }, { orders: count })
        expect(keyOf({ id: other, subject, type: other }, { orders: count })).toBe(key)
        const partition = Number(/^orders:(\d+)$/.exec(key as string)?.[1])
        expect(partition).toBeLessThan(count)
      }),
    )
  })

  it('follows from the id where there is no subject', () => {
    expect(keyOf({ id: 'order-42', subject: null }, partitions)).toBe('orders:14')
  })

  it('spreads subjects over all there are', () => {
    const keys = Array.from({ length: 500 }, (_, i) => keyOf({ subject: `order-${i}` }, partitions))
    expect(new Set(keys).size).toBe(16)
  })
})
