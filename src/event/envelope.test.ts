import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../test/support/any-text.js'
import { COLUMN_COUNT, Column, Envelope, eventTime } from './envelope.js'
import { ATTRIBUTES } from './names.js'
import { positionOf, positionPrefix } from './position.js'
import { countValues, fieldsOf } from './shape.js'
import type { EventSink, RowColumns } from './sink.js'

const POSITION = positionOf(positionPrefix(1, 0x16b374d848n), 2)
const envelope = new Envelope('/shop')
const COMMITTED_AT = Date.UTC(2026, 10, 23, 20, 0, 0, 12)

type Values = Partial<Record<keyof typeof Column, string | null>>

/** The row as it lies in a message: columns one after the other, with other bytes around each. */
function row(values: Values): RowColumns {
  const starts = new Int32Array(COLUMN_COUNT).fill(-1)
  const ends = new Int32Array(COLUMN_COUNT)
  let data = Buffer.from('before')
  for (const [name, value] of Object.entries({ id: 'e1', type: 'order.placed', ...values })) {
    if (value == null) continue
    const column = Column[name as keyof typeof Column]
    starts[column] = data.length
    data = Buffer.concat([data, Buffer.from(value)])
    ends[column] = data.length
    data = Buffer.concat([data, Buffer.from('{}')])
  }
  return { data, starts, ends }
}

const sinkTo = (args: string[]): EventSink => ({
  text: (value) => args.push(value),
  bytes: (data, start, end) => args.push(data.toString('utf8', start, end)),
  shape: (shape) => args.push(shape),
})

/** What comes of a row: why it cannot be published, or what is pushed behind `args`. */
const push = (args: string[], values: Values, dataIsJson = true) =>
  envelope.push(sinkTo(args), row(values), Buffer.from(POSITION), COMMITTED_AT, dataIsJson)

/** The fields of a row that can be published, in their order. */
function entries(values: Values): [string, string][] {
  const args: string[] = []
  expect(push(args, values)).toBeUndefined()
  const [position, id, shape, ...rest] = args as [string, string, string, ...string[]]
  expect([position, id]).toEqual([POSITION, values.id ?? 'e1'])
  expect(rest.length).toBe(countValues(shape))
  const names = shape.split('\n').map((line) => line.replace(/[=<].*/s, ''))
  const entry = fieldsOf(shape, id, position, rest)
  return names.map((name) => [name, entry[name] as string])
}

const fields = (values: Values) => Object.fromEntries(entries(values))
const refusal = (values: Values) => push([], values)

describe('the fields of an entry', () => {
  it('are the attributes of CloudEvents 1.0, flat, with the data as it was stored', () => {
    const data = '{ "total": 99.90, "name": "Zoë 🐎" }'
    expect(
      fields({
        subject: 'order-42',
        data,
        schemaVersion: '3',
        correlationId: 'c1',
        causationId: 'c2',
        headers: '{"traceparent": "00-ab-cd-01", "tenant": ""}',
        time: '2026-11-23 19:59:59.1234+00',
      }),
    ).toEqual({
      specversion: '1.0',
      id: 'e1',
      source: '/shop',
      type: 'order.placed',
      subject: 'order-42',
      time: '2026-11-23T19:59:59.123400Z',
      datacontenttype: 'application/json',
      schemaversion: '3',
      correlationid: 'c1',
      causationid: 'c2',
      traceparent: '00-ab-cd-01',
      tenant: '',
      sequence: POSITION,
      data,
    })
  })

  it('leave out what is null, and the type of data that is not there', () => {
    expect(fields({})).toEqual({
      specversion: '1.0',
      id: 'e1',
      source: '/shop',
      type: 'order.placed',
      time: '2026-11-23T20:00:00.012000Z',
      sequence: POSITION,
    })
  })

  it('keep what is empty but not null', () => {
    expect(fields({ subject: '', correlationId: '', causationId: '', data: '' })).toMatchObject({
      subject: '',
      correlationid: '',
      causationid: '',
      data: '',
    })
  })

  it('have the time of the commit where the table has none of its own', () => {
    expect(fields({ time: null }).time).toBe('2026-11-23T20:00:00.012000Z')
  })

  it('are never written twice, whatever the row holds', () => {
    const text = fc.option(anyText)
    const name = fc.oneof(fc.stringMatching(/^[a-z0-9]{1,40}$/), fc.constantFrom('0', '12', 'tenant'))
    const headers = fc
      .dictionary(
        name.filter((each) => !ATTRIBUTES.has(each)),
        anyText,
      )
      .map((each) => JSON.stringify(each))
    const optional = { subject: text, data: text, correlationId: text, causationId: text, schemaVersion: text }
    fc.assert(
      fc.property(fc.record({ ...optional, headers: fc.option(headers) }), (values) => {
        const found = entries(values)
        expect(new Set(found.map(([field]) => field)).size).toBe(found.length)
        const known = Object.fromEntries(found)
        expect(known).toMatchObject(JSON.parse(values.headers ?? '{}'))
        for (const column of ['subject', 'data', 'correlationId', 'causationId', 'schemaVersion'] as const) {
          expect(known[column.toLowerCase()]).toBe(values[column] ?? undefined)
        }
      }),
    )
  })

  it('are pushed behind what is there, and not at all for a row that cannot be published', () => {
    const args = ['before']
    push(args, { subject: 's', headers: '{"a":1}' })
    expect(args).toEqual(['before'])
    push(args, {})
    expect(args.slice(0, 3)).toEqual(['before', POSITION, 'e1'])
  })

  it('share one shape among rows that have the same columns', () => {
    const shapeOf = (values: Values) => {
      const args: string[] = []
      push(args, values)
      return args[2]
    }
    expect(shapeOf({ subject: 'a', data: '1' })).toBe(shapeOf({ id: 'e2', subject: 'b', data: '2' }))
    expect(shapeOf({ subject: 'a' })).not.toBe(shapeOf({ data: '1' }))
  })
})

describe('a row that cannot be published', () => {
  it.each([
    [{ id: null }, 'expected an id, found none'],
    [{ id: '' }, 'expected an id, found none'],
    [{ type: null }, 'expected a type, found none'],
    [{ type: '' }, 'expected a type, found none'],
    [{ time: 'infinity' }, 'expected a time with a year of four digits, found infinity'],
    [{ headers: '{"a":' }, 'expected headers as a JSON object, found text that is not JSON'],
    [{ headers: '' }, 'expected headers as a JSON object, found text that is not JSON'],
    [{ headers: '[]' }, 'expected headers as a JSON object, found another kind of value'],
    [{ headers: 'null' }, 'expected headers as a JSON object, found another kind of value'],
    [{ headers: '"a"' }, 'expected headers as a JSON object, found another kind of value'],
    [{ headers: '{"a":1}' }, 'expected header a as a string, found number'],
    [{ headers: '{"a":null}' }, 'expected header a as a string, found object'],
    [{ headers: '{"traceParent":""}' }, 'lower-case letters and digits that is no attribute, found "traceParent"'],
    [{ headers: '{"":""}' }, 'found ""'],
    [{ headers: '{"__proto__":""}' }, 'found "__proto__"'],
    [{ headers: `{"${'a'.repeat(41)}":""}` }, "expected a header's name of 1 to 40"],
  ])('%j says why', (values, reason) => {
    expect(refusal(values)).toContain(reason)
  })

  it.each([...ATTRIBUTES])('names a header as the attribute %s', (name) => {
    expect(refusal({ headers: JSON.stringify({ [name]: 'x' }) })).toContain(`found "${name}"`)
  })
})

describe('data of a column that is not of a JSON type', () => {
  const pushData = (args: string[], data: string | null) => push(args, { data }, false)

  it.each(['{"n": 1}', '[]', '"text"', '42', 'null', ' {} ', null])(
    'that is JSON is published as it is: %s',
    (data) => {
      const args: string[] = []
      expect(pushData(args, data)).toBeUndefined()
      expect(args.includes(data ?? '')).toBe(data !== null)
    },
  )

  it.each(['', 'text', '\\x7b7d', "{'n': 1}", 'NaN', '{} {}'])(
    'that is not is refused, and nothing is pushed: %s',
    (data) => {
      const args = ['before']
      expect(pushData(args, data)).toBe('expected data as JSON, found text that is not JSON')
      expect(args).toEqual(['before'])
    },
  )
})

describe('the time of an event', () => {
  it.each([
    ['2026-11-23 20:00:00.123456+00', '2026-11-23T20:00:00.123456Z'],
    ['2026-11-23 20:00:00.1234+00', '2026-11-23T20:00:00.123400Z'],
    ['2026-11-23 20:00:00.1+00', '2026-11-23T20:00:00.100000Z'],
    ['2026-11-23 20:00:00+00', '2026-11-23T20:00:00.000000Z'],
    ['2026-11-23 20:00:00.123456', '2026-11-23T20:00:00.123456Z'],
    ['2026-11-23 20:00:00', '2026-11-23T20:00:00.000000Z'],
    ['0001-01-01 00:00:00+00', '0001-01-01T00:00:00.000000Z'],
    ['9999-12-31 23:59:59.999999+00', '9999-12-31T23:59:59.999999Z'],
  ])('%s is %s', (text, time) => {
    expect(eventTime(text)).toBe(time)
    expect(fields({ time: text }).time).toBe(time)
  })

  it.each([
    'infinity',
    '-infinity',
    '0044-03-15 12:00:00+00 BC',
    '0044-03-15 12:00:00.12+00 BC',
    '0044-03-15 12:00:00.123456+00 BC',
    '10000-01-01 00:00:00+00',
    '10000-01-01 00:00:00.12345+00',
    '294276-12-31 23:59:59.999999+00',
    '2026-11-23 21:00:00+01',
    '2026-11-23 21:00:00.123456+01',
    '2026-11-23 21:00:00.123456+00:30',
    '2026-11-23',
    '',
  ])('%j cannot be said in RFC 3339 and UTC', (text) => {
    expect(eventTime(text)).toBeUndefined()
    expect(refusal({ time: text })).toBe(`expected a time with a year of four digits, found ${text}`)
  })

  it('is the same instant, to the microsecond, however many digits Postgres writes', () => {
    const seconds = fc.integer({ min: Date.UTC(1, 0) / 1000, max: Date.UTC(9999, 11, 31) / 1000 })
    fc.assert(
      fc.property(seconds, fc.nat({ max: 999_999 }), (second, micros) => {
        const iso = new Date(second * 1000).toISOString().slice(0, 19)
        const fraction = String(micros).padStart(6, '0')
        const shortened = `.${fraction}`.replace(/\.?0+$/, '')
        const text = `${iso.replace('T', ' ')}${shortened}+00`
        expect([eventTime(text), fields({ time: text }).time]).toEqual([`${iso}.${fraction}Z`, `${iso}.${fraction}Z`])
      }),
    )
  })
})
