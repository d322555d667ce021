import { describe, expect, it } from 'vitest'
import { ATTRIBUTES, HEADER_NAME, headKey, partitionsKey, STREAM_NAME, streamKey } from './names.js'

/** The part of a key that decides on its slot in a Redis Cluster. */
const hashTag = (key: string) => /\{([^}]+)\}/.exec(key)?.[1] ?? key

describe('the name of a stream', () => {
  it.each(['orders', 'o', '0', 'Orders.EU-west_1', 'out', 'my-outrider', 'a'.repeat(200)])('may be %j', (name) => {
    expect(STREAM_NAME.test(name)).toBe(true)
  })

  it.each([
    '',
    'outrider',
    'outrider.orders',
    'outriders',
    '.orders',
    '-orders',
    '_orders',
    'orders:1',
    'orders{1}',
    'or ders',
    'orders\n',
    'örders',
    'a'.repeat(201),
  ])('may not be %j', (name) => {
    expect(STREAM_NAME.test(name)).toBe(false)
  })
})

describe('the name of a header', () => {
  it.each(['traceparent', 'b3', '0', 'a'.repeat(40)])('may be %j', (name) => {
    expect(HEADER_NAME.test(name)).toBe(true)
  })

  it.each(['', 'traceParent', 'trace-parent', 'trace_parent', 'träce', 'a\n', 'a'.repeat(41)])(
    'may not be %j',
    (name) => {
      expect(HEADER_NAME.test(name)).toBe(false)
    },
  )

  it('is of the same kind as the attributes that Outrider writes itself', () => {
    for (const attribute of ATTRIBUTES) expect(attribute).toMatch(HEADER_NAME)
  })
})

describe('a key in Redis', () => {
  it('of a stream is its name, with the partition behind it where there are any', () => {
    expect(streamKey('orders')).toBe('orders')
    expect(streamKey('orders', 0)).toBe('orders:0')
    expect(streamKey('orders', 15)).toBe('orders:15')
  })

  it('of a head lies in the slot of its stream, one for each lineage', () => {
    expect(headKey('orders:3', 'l1')).toBe('outrider:{orders:3}:head:l1')
    expect(hashTag(headKey('orders:3', 'l1'))).toBe(hashTag('orders:3'))
    expect(headKey('orders', 'l1')).not.toBe(headKey('orders', 'l2'))
  })

  it('of the number of partitions is found by the name of the stream', () => {
    expect(partitionsKey('orders')).toBe('outrider:{orders}:partitions')
  })

  it('of Outrider can be no name of a stream', () => {
    expect(STREAM_NAME.test(headKey('orders', 'l1'))).toBe(false)
    expect(STREAM_NAME.test(partitionsKey('orders'))).toBe(false)
  })
})
