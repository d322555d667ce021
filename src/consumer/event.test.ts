import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../test/support/any-text.js'
import { bornAt, MalformedError, noEvent, payloadOf, readEvent, streamOf } from './event.js'

const FIELDS = {
  specversion: '1.0',
  id: '0190b5c2-8f00-7000-8000-000000000001',
  source: '/shop',
  type: 'order.placed',
  time: '2026-01-02T03:04:05.678901Z',
}
const fieldsOf = (fields: Record<string, string | undefined>): string[] =>
  Object.entries(fields).flatMap(([name, value]) => (value === undefined ? [] : [name, value]))
const read = (more: Record<string, string | undefined> = {}) => {
  const fields = fieldsOf({ ...FIELDS, ...more })
  return { ...readEvent('orders:3', fields), data: payloadOf(fields) }
}

describe('the fields of an entry', () => {
  it('are an event with everything it carries', () => {
    const more = {
      subject: 'order-42',
      schemaversion: '2',
      correlationid: 'c-1',
      causationid: 'c-2',
      sequence: '1-2-3',
    }
    const rest = { traceparent: '00-ab', tenant: 'ü', datacontenttype: 'application/json', data: '{"total":99}' }
    expect(read({ ...more, ...rest })).toEqual({
      id: FIELDS.id,
      source: '/shop',
      type: 'order.placed',
      version: 2,
      subject: 'order-42',
      time: new Date('2026-01-02T03:04:05.678Z'),
      correlationId: 'c-1',
      causationId: 'c-2',
      headers: { traceparent: '00-ab', tenant: 'ü' },
      sequence: '1-2-3',
      stream: 'orders:3',
      data: { total: 99 },
    })
  })

  it('are of version 1, about nothing and without a payload, where they do not say', () => {
    expect(read()).toMatchObject({ version: 1, subject: undefined, correlationId: undefined, data: undefined })
    expect(read().headers).toEqual({})
    expect(read({ subject: '', data: 'null' })).toMatchObject({ subject: '', data: null })
  })

  it('do not count as headers what a dead letter has told before', () => {
    const dead = { deadreason: 'crashed', deaderror: 'x', deadattempts: '5', deadtime: FIELDS.time, deadentry: '1-0' }
    expect(read({ ...dead, tenant: 'a' }).headers).toEqual({ tenant: 'a' })
  })

  it('give headers and payloads as they are, whatever is in them', () => {
    const name = fc.stringMatching(/^x[a-z0-9]{1,30}$/)
    fc.assert(
      fc.property(fc.dictionary(name, anyText), fc.jsonValue(), (headers, data) => {
        const event = read({ ...headers, data: JSON.stringify(data) })
        expect(event.headers).toEqual(Object.fromEntries(Object.entries(headers)))
        expect(event.data).toEqual(JSON.parse(JSON.stringify(data)))
      }),
    )
  })

  it.each([
    ['no id', { id: undefined }, 'a CloudEvent with the attribute id, found none'],
    ['an empty id', { id: '' }, 'a CloudEvent with the attribute id, found none'],
    ['no source', { source: undefined }, 'a CloudEvent with the attribute source, found none'],
    ['no type', { type: undefined }, 'a CloudEvent with the attribute type, found none'],
    ['version 0', { schemaversion: '0' }, 'schemaversion as a whole number from 1'],
    ['a version that is none', { schemaversion: 'two' }, 'schemaversion as a whole number from 1'],
    ['half a version', { schemaversion: '1.5' }, 'schemaversion as a whole number from 1'],
    ['an empty version', { schemaversion: '' }, 'schemaversion as a whole number from 1'],
    ['no time', { time: undefined }, 'a CloudEvent with the attribute time, found none'],
    ['a time that is none', { time: 'yesterday' }, 'time in the form of RFC 3339'],
    ['a payload that is no JSON', { data: '{"total":' }, 'data as JSON'],
    ['an empty payload', { data: '' }, 'data as JSON'],
  ])('are malformed with %s', (_what, more, message) => {
    expect(() => read(more)).toThrow(MalformedError)
    expect(() => read(more)).toThrow(`Expected ${message}`)
  })

  it('are malformed, and nothing worse, whatever someone else has appended', () => {
    const fields = fc.array(fc.oneof(anyText, fc.constantFrom(...Object.entries(FIELDS).flat(), 'data', '{}')))
    fc.assert(
      fc.property(fields, (given) => {
        try {
          readEvent('orders', given)
          payloadOf(given)
        } catch (error) {
          expect(error).toBeInstanceOf(MalformedError)
        }
      }),
    )
    expect(() => readEvent('orders', ['any', 'thing'])).toThrow(MalformedError)
  })

  it('tell nothing of their content where they are malformed', () => {
    const error = (() => {
      try {
        return read({ data: '{"password":"hunter2"' })
      } catch (error) {
        return error
      }
    })()
    expect(String((error as Error).message)).not.toContain('hunter2')
    expect(noEvent('orders')).toMatchObject({ type: 'malformed', stream: 'orders', subject: undefined })
  })
})

describe('the time at which an event can first have been done', () => {
  const time = new Date('2026-01-02T03:04:05.678Z')
  const event = { ...noEvent('orders'), time }
  const hour = 3_600_000
  /** Not of newId, whose ids rise whatever time it is given. */
  const idOf = (made: number) =>
    made
      .toString(16)
      .padStart(12, '0')
      .replace(/^(.{8})(.{4})$/, '$1-$2-7000-8000-00000000000a')

  it('is when its id was made, where that is of version 7, whatever its time says', () => {
    const made = Date.now() - hour
    for (const id of [idOf(made), idOf(made).toUpperCase()]) {
      expect(bornAt({ ...event, id, time: new Date(made + hour) }, `${made + hour}-0`)).toBe(made)
    }
    expect(bornAt({ ...event, id: '0190b5c2-8f00-7000-8000-000000000001' }, '9999999999999-0')).toBe(0x0190b5c28f00)
  })

  it('is its time, where the id is of another kind', () => {
    for (const id of ['5a3c1f8e-3d0b-4c5a-9f6e-2b7d8c9e0f1a', 'order-42', '0190b5c2-8f00-7000-0000-000000000001']) {
      expect(bornAt({ ...event, id }, '9999999999999-0')).toBe(time.getTime())
    }
  })

  it('stays what it was when a replay gives the event a new entry', () => {
    const id = '0190b5c2-8f00-7000-8000-000000000001'
    expect(bornAt({ ...event, id }, `${Date.now()}-0`)).toBe(bornAt({ ...event, id }, `${0x0190b5c28f00 + 5}-0`))
  })

  it('is never later than its entry, whoever has set the clock of the producer', () => {
    const entry = time.getTime() - hour
    expect(bornAt({ ...event, id: 'order-42' }, `${entry}-7`)).toBe(entry)
    expect(bornAt({ ...event, id: 'ffffffff-ffff-7000-8000-000000000001' }, `${entry}-7`)).toBe(entry)
  })
})

it('the name of a stream is its key without the partition', () => {
  expect(['orders', 'orders:0', 'orders:15', 'or.d-e_rs:3'].map(streamOf)).toEqual([
    'orders',
    'orders',
    'orders',
    'or.d-e_rs',
  ])
})
