import * as v from 'valibot'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../event/define.js'
import { EventError } from '../event/error.js'
import { type EventInput, toRow } from './row.js'

const OrderPlaced = defineEvent({
  stream: 'orders',
  type: 'order.placed',
  version: 3,
  data: z.object({ total: z.number(), note: z.string().optional() }),
})

const define = <Schema extends z.ZodType>(data: Schema, maxBytes?: number) =>
  defineEvent({ stream: 'orders', type: 'order.placed', version: 1, data, maxBytes })

function refusal(run: () => unknown): EventError {
  try {
    run()
  } catch (error) {
    if (error instanceof EventError) return error
  }
  throw new Error('Expected an EventError')
}

describe('toRow', () => {
  it('gives the columns of outrider.outbox', () => {
    const time = new Date()
    const row = toRow(OrderPlaced, {
      subject: 'order-42',
      data: { total: 99 },
      id: '0190B5C6-7C00-7000-8000-000000000001',
      correlationId: 'c-1',
      causationId: 'c-2',
      headers: { tenant: 'a', traceparent: undefined },
      time,
    })
    expect({ ...row, data: String(row.data) }).toEqual({
      id: '0190b5c6-7c00-7000-8000-000000000001',
      stream: 'orders',
      type: 'order.placed',
      subject: 'order-42',
      data: '{"total":99}',
      schema_version: 3,
      correlation_id: 'c-1',
      causation_id: 'c-2',
      headers: { tenant: 'a' },
      created_at: time,
    })
  })

  it('leaves the rest to the columns’ defaults', () => {
    const row = toRow(OrderPlaced, { data: { total: 1 } })
    expect(Object.keys(row)).not.toContain('created_at')
    expect(row).toMatchObject({ subject: null, correlation_id: null, causation_id: null, headers: {} })
    expect(row.id).toMatch(/^[0-9a-f-]{36}$/)
  })

  it('tells no payload from the payload null', () => {
    expect(toRow(define(z.undefined()), {}).data).toBeNull()
    expect(String(toRow(define(z.null()), { data: null }).data)).toBe('null')
  })

  it.each([
    ['zod', z.object({ total: z.number() })],
    ['valibot', v.object({ total: v.number() })],
  ])('refuses what the schema does not take, with its issues (%s)', (_library, data) => {
    const event = defineEvent({ stream: 'orders', type: 'order.placed', version: 1, data })
    const error = refusal(() => toRow(event, { data: { total: '99' } } as never))
    expect(error.issues).toHaveLength(1)
    expect(error.message).toContain(
      'The event order.placed, version 1, cannot be stored for the stream orders: data.total',
    )
    expect(error.message).toContain('Nothing was sent to Postgres.')
  })

  it('stores what a transforming schema takes, so that the consumer’s parse gives the same result', () => {
    const data = z.object({
      at: z.iso.datetime().transform((text) => new Date(text)),
      cents: z.string().transform(Number),
      currency: z.string().default('EUR'),
      name: z.string().trim(),
    })
    const input = { at: '2026-01-02T03:04:05Z', cents: '9900', name: ' Ada ' }
    const stored = String(toRow(define(data), { data: input }).data)
    expect(stored).toBe(JSON.stringify(input))
    expect(data.parse(JSON.parse(stored))).toEqual(data.parse(input))
  })

  it('checks the payload as consumers will read it: a Date is a string there', () => {
    const at = new Date(0)
    const error = refusal(() => toRow(define(z.object({ at: z.date() })), { data: { at } }))
    expect(error.message).toMatch(
      /data\.at: .*expected date, received string.* Data is checked as consumers will read it/,
    )
    const coerced = toRow(define(z.object({ at: z.coerce.date() })), { data: { at } })
    expect(String(coerced.data)).toBe('{"at":"1970-01-01T00:00:00.000Z"}')
  })

  it('refuses a payload that JSON cannot carry before the schema sees it', () => {
    const error = refusal(() => toRow(define(z.unknown()), { data: { n: Number.NaN } }))
    expect(error.message).toContain('data: Expected a finite number in "n", found NaN')
    expect(refusal(() => toRow(define(z.unknown()), { data: 1n })).issues[0]?.path).toEqual(['data'])
  })

  it('refuses wrong attributes, all of them at once', () => {
    const error = refusal(() => toRow(OrderPlaced, { data: { total: 1 }, subject: '', id: 'x' }))
    expect(error.issues.map((issue) => issue.path)).toEqual([['subject'], ['id']])
    expect(refusal(() => toRow(OrderPlaced, undefined as never)).message).toContain('found undefined')
  })

  it('measures the whole event in bytes of UTF-8', () => {
    const event = (maxBytes: number) => define(z.string(), maxBytes)
    const input: EventInput<ReturnType<typeof event>> = { subject: '€', data: '€€', headers: { a: 'b' } }
    const names = 36 + 'orders'.length + 'order.placed'.length + 3
    const bytes = names + '"'.length * 2 + 6 + '{"a":"b"}'.length + 256
    expect(String(toRow(event(bytes), input).data)).toBe('"€€"')
    const error = refusal(() => toRow(event(bytes - 1), input))
    expect(error.message).toContain(`Expected at most ${bytes - 1} bytes (maxBytes of its definition), found ${bytes}`)
  })

  it('refuses a schema that validates asynchronously, and says what to use', () => {
    const event = define(z.string().refine(async (text) => text === 'never'))
    expect(refusal(() => toRow(event, { data: 'a' })).message).toContain(
      'data: Expected a schema that validates synchronously, found one that returns a promise. Use publish',
    )
  })
})
