import { describe, expect, it } from 'vitest'
import { attributeIssues, definedHeaders, type EventAttributes } from './attributes.js'

const messages = (input: object): string[] =>
  attributeIssues(input as EventAttributes).map((issue) => `${issue.path?.join('.')}: ${issue.message}`)

const headers = (count: number, value = 'x') =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`h${index}`, value]))

describe('attributeIssues', () => {
  it('finds nothing in attributes that reach the limits', () => {
    const input = {
      subject: '🐎'.repeat(1024),
      id: '0190B5C6-7C00-7000-8000-000000000001',
      correlationId: 'c'.repeat(255),
      causationId: 'c'.repeat(255),
      headers: { ...headers(31), ['t'.repeat(40)]: 'x', traceparent: undefined },
      time: new Date('9999-12-31T23:59:59.999Z'),
    }
    expect(messages(input)).toEqual([])
    expect(messages({ time: new Date('0001-01-01T00:00:00Z') })).toEqual([])
    expect(messages({ subject: null, correlationId: null, causationId: undefined })).toEqual([])
    expect(messages({ headers: { a: 'x'.repeat(8192 - '{"a":""}'.length) } })).toEqual([])
  })

  it.each([
    [{ subject: '' }, 'subject: Expected 1 to 1024 characters, found 0'],
    [{ subject: '🐎'.repeat(1025) }, 'subject: Expected 1 to 1024 characters, found 1025'],
    [{ subject: 42 }, 'subject: Expected a string of 1 to 1024 characters, found number'],
    [{ subject: 'a\0' }, 'subject: Expected text that Postgres can store, found a NUL'],
    [{ subject: '\udc00' }, 'subject: Expected text that Postgres can store, found a NUL character or half'],
    [{ correlationId: 'c'.repeat(256) }, 'correlationId: Expected 1 to 255 characters, found 256'],
    [{ causationId: [] }, 'causationId: Expected a string of 1 to 255 characters, found an array'],
    [{ id: 'order-1' }, 'id: Expected a UUID'],
    [{ time: new Date(Number.NaN) }, 'time: Expected a valid Date'],
    [{ time: new Date('+010000-01-01T00:00:00Z') }, 'time: Expected a valid Date of the years 1 to 9999'],
    [{ time: '2026-01-01' }, 'time: Expected a valid Date'],
    [{ headers: [] }, 'headers: Expected an object of strings'],
    [{ headers: null }, 'headers: Expected an object of strings'],
    [{ headers: { 'trace-parent': 'x' } }, 'headers.trace-parent: Expected a name of 1 to 40 lower-case letters'],
    [{ headers: { ['t'.repeat(41)]: 'x' } }, 'Expected a name of 1 to 40 lower-case letters and digits'],
    [{ headers: { correlationid: 'x' } }, 'headers.correlationid: Expected a name that Outrider does not write'],
    [{ headers: { retries: 3 } }, 'headers.retries: Expected a string, found number'],
    [{ headers: { a: '\0' } }, 'headers.a: Expected text that Postgres can store'],
    [{ headers: headers(33) }, 'headers: Expected at most 32 headers, found 33'],
    [{ headers: { a: '€'.repeat(3000) } }, 'headers: Expected at most 8192 bytes as JSON, found 9008'],
    [{ correlation_id: 'c' }, 'correlation_id: Expected one of subject, data, id, correlationId'],
  ])('refuses %j', (input, message) => {
    expect(messages(input)).toEqual([expect.stringContaining(message)])
  })
})

it('leaves out headers without a value', () => {
  expect(definedHeaders({ traceparent: undefined, tenant: 'a' })).toEqual({ tenant: 'a' })
  expect(definedHeaders(undefined)).toEqual({})
})
