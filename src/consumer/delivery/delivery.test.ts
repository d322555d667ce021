import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../event/define.js'
import { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { HandlerRegistry, NO_HANDLER } from '../handler-registry.js'
import { definedTestDelivery, testDeliveryOf } from '../test-delivery.js'
import { deliveryOf, type Remembered } from './delivery.js'

const Placed = defineEvent({ stream: 'orders', type: 'order.placed', version: 2, data: z.unknown() })
const routes = new HandlerRegistry(
  { concurrency: 8, maxAttempts: 10, retryFor: 1_000, backoff: () => 0 },
  new Set(['order.lost']),
)
routes.add(Placed, { kind: 'one', handle: () => {} }, {})
const [route] = routes.all

const group = new ConsumerGroup('orders:3', 'billing', 'worker-1')
const entry = (fields: Record<string, string> = {}) => ({
  id: '1700000000000-0',
  fields: Object.entries({
    ...{ id: 'e-1', source: '/shop', type: 'order.placed', schemaversion: '2', time: '2026-01-02T03:04:05Z' },
    ...fields,
  }).flat(),
})

describe('an entry in the hands of a worker', () => {
  it('has its handler, and nothing behind it when it is new', () => {
    const delivery = deliveryOf(group, entry({ data: '{"total":99}' }), routes, false)
    expect(delivery).toMatchObject({
      key: 'orders:3',
      id: '1700000000000-0',
      route,
      state: 'queued',
      orderingKey: undefined,
    })
    expect(delivery).toMatchObject({ deliveryCount: 0, attempts: 0, due: 0, since: undefined, begun: false })
    expect(delivery.event).toMatchObject({ id: 'e-1', stream: 'orders:3', data: undefined })
    expect(delivery.fields).toContain('{"total":99}')
  })

  it('has the ordering key of its subject within its partition where order is wanted, and in none without a subject', () => {
    const orderingKey = (ordered: boolean, subject?: string, of = group) =>
      deliveryOf(of, entry(subject === undefined ? {} : { subject }), routes, ordered).orderingKey
    expect(orderingKey(true, 'a')).toBeDefined()
    expect(orderingKey(true, 'a')).toBe(orderingKey(true, 'a'))
    expect(orderingKey(true, 'a')).not.toBe(orderingKey(true, 'b'))
    expect(orderingKey(true, 'a')).not.toBe(
      orderingKey(true, 'a', new ConsumerGroup('orders:4', 'billing', 'worker-1')),
    )
    expect([orderingKey(true), orderingKey(false, 'a')]).toEqual([undefined, undefined])
  })

  it('knows what is remembered of it, where it was another worker’s', () => {
    const remembered: Remembered = { attempts: 3, due: 1_700_000_060_000, since: 1_700_000_000_000 }
    const before = { deliveryCount: 2, attempts: JSON.stringify(remembered) }
    expect(deliveryOf(group, entry(), routes, false, before)).toMatchObject({
      deliveryCount: 2,
      begun: false,
      ...remembered,
    })
    const never = { deliveryCount: 1, attempts: '' }
    expect(deliveryOf(group, entry(), routes, false, never)).toMatchObject({ deliveryCount: 1, attempts: 0, due: 0 })
  })

  it('passes through the schedule in its turn also where no handler takes it', () => {
    const found = (fields: Record<string, string>) => deliveryOf(group, entry(fields), routes, true)
    expect(found({ type: 'order.lost' })).toMatchObject({ route: NO_HANDLER, found: { skip: true } })
    expect(found({ schemaversion: '3' })).toMatchObject({ route: NO_HANDLER, found: { unknown: 'unknown_version' } })
    const malformed = deliveryOf(group, { id: '1-0', fields: ['any', 'thing'] }, routes, true)
    expect(malformed).toMatchObject({
      route: NO_HANDLER,
      orderingKey: undefined,
      event: { type: 'malformed', stream: 'orders:3' },
    })
    expect(malformed.found).toEqual({ malformed: expect.stringMatching(/^Expected .*, found/) })
    expect(malformed.fields).toEqual(['any', 'thing'])
  })
})

describe('an event to deliver', () => {
  it('gets what a stream would give it, where nothing is said', () => {
    const before = Date.now()
    const event = testDeliveryOf({ type: 'order.placed', data: { at: new Date(0), none: undefined } }, () => ['orders'])
    expect(event).toMatchObject({ source: '/test', version: 1, stream: 'orders', headers: {}, subject: undefined })
    expect(event.id).toMatch(/^[0-9a-f-]{36}$/)
    expect(event.time.getTime()).toBeGreaterThanOrEqual(before)
    // As JSON makes of it.
    expect(event.data).toEqual({ at: '1970-01-01T00:00:00.000Z' })
  })

  it('is what publish would publish of its definition', () => {
    const input = { id: 'e-1', subject: null, data: { total: 1 }, correlationId: 'c-1', headers: { tenant: 'a' } }
    const event = testDeliveryOf(definedTestDelivery(Placed, input), () => [])
    expect(event).toMatchObject({ id: 'e-1', type: 'order.placed', version: 2, stream: 'orders', data: { total: 1 } })
    expect(event).toMatchObject({ subject: undefined, correlationId: 'c-1', causationId: undefined })
    expect(event.headers).toEqual({ tenant: 'a' })
  })

  it('is refused without a type, and where its stream cannot be told', () => {
    expect(() => testDeliveryOf({} as never, () => [])).toThrow(
      'Expected an event to deliver with its type, found undefined.',
    )
    expect(() => testDeliveryOf({ type: 'a' }, () => ['orders', 'archive'])).toThrow(
      'Expected the stream of a, which is handled from orders and archive, found none.',
    )
    expect(testDeliveryOf({ type: 'a', stream: 'archive:3' }, () => ['orders', 'archive']).stream).toBe('archive:3')
  })
})
