import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { defineEvent, type EventDefinition } from '../event/define.js'
import { noEvent } from './event.js'
import { batchSizeOf, HandlerRegistry } from './handler-registry.js'

const define = (stream: string, type: string, version = 1): EventDefinition =>
  defineEvent({ stream, type, version, data: z.unknown() })
const Placed = define('orders', 'order.placed')
const Placed3 = define('orders', 'order.placed', 3)
const Left = define('guests', 'guest.left')

const one = { kind: 'one', handle: () => {} } as const
const defaults = { concurrency: 8, maxAttempts: 10, retryFor: 1_000, backoff: () => 7 }
const routesOf = (...skip: string[]) => new HandlerRegistry(defaults, new Set(skip))
const event = (stream: string, type: string, version = 1) => ({ ...noEvent(stream), type, version })

describe('which handler takes an event', () => {
  it('is decided by stream, type and version; each partition is the stream', () => {
    const routes = routesOf()
    routes.add([Placed, Placed3], one, {})
    routes.add(Left, { kind: 'batch', handle: () => {}, size: 5 }, {})
    const [orders, guests] = routes.all
    expect(routes.find(event('orders', 'order.placed'))).toEqual({ route: orders, definition: Placed })
    expect(routes.find(event('orders:7', 'order.placed', 3))).toEqual({ route: orders, definition: Placed3 })
    expect(routes.find(event('guests', 'guest.left'))).toEqual({ route: guests, definition: Left })
    expect([routes.streams, routes.streamsOf('order.placed')]).toEqual([['guests', 'orders'], ['orders']])
  })

  it('is no handler for a type that none is registered for, on this stream', () => {
    const routes = routesOf()
    routes.add(Placed, one, {})
    for (const stranger of [event('orders', 'order.lost'), event('guests', 'order.placed')]) {
      expect(routes.find(stranger)).toEqual({
        unknown: 'unknown_type',
        newer: false,
        error: `No handler of this group takes the type ${stranger.type}. Add one, or name it in skip.`,
      })
    }
  })

  it('is no handler for another version, and only one above all that are handled is newer', () => {
    const routes = routesOf()
    routes.add([Placed3, Placed], one, {})
    const find = (version: number) => routes.find(event('orders', 'order.placed', version))
    const error = 'Expected version 1 or 3 of order.placed, found version 2.'
    expect(find(2)).toEqual({ unknown: 'unknown_version', newer: false, error })
    expect(find(4)).toMatchObject({ unknown: 'unknown_version', newer: true })
  })

  it('is no handler, on purpose, for a type to be skipped, in whatever version', () => {
    const routes = routesOf('order.lost')
    routes.add(Placed, one, {})
    expect(routes.find(event('orders', 'order.lost', 9))).toEqual({ skip: true })
  })

  it('is no handler, on purpose, for types with a beginning to be skipped, but for those that are handled', () => {
    const routes = routesOf('order.*')
    routes.add(Placed, one, {})
    expect(routes.find(event('orders', 'order.lost'))).toEqual({ skip: true })
    expect(routes.find(event('guests', 'order.placed'))).toEqual({ skip: true })
    expect(routes.find(event('guests', 'guest.left'))).toMatchObject({ unknown: 'unknown_type' })
    expect(routes.find(event('orders', 'order.placed'))).toMatchObject({ definition: Placed })
    expect(routes.find(event('orders', 'order.placed', 2))).toMatchObject({ unknown: 'unknown_version' })
    expect(routesOf('*').find(event('guests', 'guest.left'))).toEqual({ skip: true })
  })
})

describe('a handler', () => {
  it('has options of its own, or else those of the consumer', () => {
    const routes = routesOf()
    const key = () => 'k'
    routes.add(Placed, one, {})
    routes.add(Left, one, { concurrency: 2, maxAttempts: 3, backoff: (attempt) => `${attempt}s`, key })
    const [first, second] = routes.all
    expect([first?.concurrency, first?.policy.maxAttempts, first?.policy.backoff(1), first?.key]).toEqual([
      ...[8, 10, 7, undefined],
    ])
    expect([second?.concurrency, second?.policy.maxAttempts, second?.policy.backoff(2), second?.key]).toEqual([
      ...[2, 3, 2_000, key],
    ])
  })

  it.each<[unknown, string]>([
    [{ concurrency: 9 }, 'Expected concurrency of the handler of order.placed as a whole number from 1 to 8, found 9'],
    [
      { maxAttempts: 0 },
      'Expected maxAttempts of the handler of order.placed as a whole number from 1 to 1000, found 0',
    ],
    [{ backoff: 5 }, 'Expected backoff of the handler of order.placed as { min, max } or a function, found 5'],
    [{ backoff: { min: 'x' } }, 'Expected backoff of the handler of order.placed.min as a duration'],
    [{ key: 'subject' }, 'Expected key of the handler of order.placed as a function of the event, found "subject"'],
  ])('is refused with options that are none: %o', (options, message) => {
    expect(() => routesOf().add(Placed, one, options as never)).toThrow(message)
  })

  it('says what is wrong with a pause that its own backoff returns', () => {
    const routes = routesOf()
    routes.add(Placed, one, { backoff: () => 'later' })
    expect(() => routes.all[0]?.policy.backoff(1)).toThrow(
      'Expected what backoff of the handler of order.placed returns as a duration',
    )
  })

  it('is the only one of its group for a type and version of a stream', () => {
    const routes = routesOf('guest.left')
    routes.add(Placed, one, {})
    expect(() => routes.add([Placed3, Placed], one, {})).toThrow(
      /Expected one handler for order.placed, version 1, of the stream orders, found two. .* a group of its own/,
    )
    expect(() => routes.add(Left, one, {})).toThrow('Expected guest.left to be handled or named in skip, found both.')
    routes.add(define('archive', 'order.placed'), one, {})
    expect(routes.streamsOf('order.placed')).toEqual(['orders', 'archive'])
  })

  it('is refused for what is no definition', () => {
    const refused = 'Expected an event as defineEvent makes it, found something else.'
    for (const wrong of [
      { stream: 'orders', type: 'a', version: 1 },
      { type: 'a' },
      undefined,
      'order.placed',
      [null],
    ]) {
      expect(() => routesOf().add(wrong as never, one, {})).toThrow(refused)
    }
    expect(() => routesOf().add([], one, {})).toThrow('Expected at least one event definition to handle, found none.')
  })

  it('gets batches of 100, or of the size that it names', () => {
    expect([batchSizeOf(undefined), batchSizeOf(1), batchSizeOf(10_000)]).toEqual([100, 1, 10_000])
    expect(() => batchSizeOf(0)).toThrow('Expected size of a batch as a whole number from 1 to 10000, found 0.')
    expect(() => batchSizeOf(10_001)).toThrow('found 10001')
  })
})
