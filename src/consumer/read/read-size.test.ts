import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { ReadSizes } from './read-size.js'

const MIB = 2 ** 20
const THINGS = { key: 'things' } as ConsumerGroup
const ORDERS = { key: 'orders' } as ConsumerGroup
const entriesOf = (count: number, bytes: number) =>
  Array.from({ length: count }, (_, n) => ({ id: `${n}-0`, fields: ['data', 'x'.repeat(bytes)] }))

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

describe('a read of a stream', () => {
  const read = (sizes: ReadSizes, ...groups: ConsumerGroup[]) => {
    const streams = groups.map((group) => ({ group, count: 500, batch: 1 }))
    const page = sizes.pageOf(streams, 4 * MIB)
    return sizes.needBound(streams, page) ? 'bounded in bytes' : page
  }
  /** After small entries, of which there are more. */
  const afterSmall = (...groups: ConsumerGroup[]) => {
    const sizes = new ReadSizes()
    for (const group of groups) for (let n = 0; n < 20; n++) sizes.of(group).note(entriesOf(64, 300), true)
    return sizes
  }

  it('is bounded in bytes at the start, and after that while entries are small has at most 64 of them', () => {
    expect(read(new ReadSizes(), THINGS)).toBe('bounded in bytes')
    expect(read(afterSmall(THINGS), THINGS)).toBe(64)
  })

  it('is bounded in bytes after a large entry, until smaller ones have followed', () => {
    const sizes = afterSmall(THINGS)
    expect(sizes.of(THINGS).note(entriesOf(2, MIB), true)).toBeGreaterThan(2 * MIB)
    const reads: unknown[] = []
    while (read(sizes, THINGS) === 'bounded in bytes') {
      sizes.of(THINGS).note(entriesOf(100, 300), true)
      reads.push(read(sizes, THINGS))
    }
    expect(reads).toHaveLength(14)
    expect(reads.at(-1)).toBe(17)
  })

  it('is bounded in bytes when the stream was not read for more than a second', () => {
    const sizes = afterSmall(THINGS)
    vi.advanceTimersByTime(1_000)
    expect(read(sizes, THINGS)).toBe(64)
    vi.advanceTimersByTime(1)
    expect(read(sizes, THINGS)).toBe('bounded in bytes')
  })

  it('waits for what arrives after large entries, because there are no more, and gets as many as are expected to fit', () => {
    const sizes = new ReadSizes()
    sizes.of(THINGS).note(entriesOf(1, MIB), false)
    expect(read(sizes, THINGS)).toBe(3)
  })

  it('shares the entries with other streams, and is bounded in bytes where that leaves it fewer than 16 of a backlog', () => {
    expect(read(afterSmall(THINGS, ORDERS), THINGS, ORDERS)).toBe(32)
    const groups = Array.from({ length: 5 }, (_, n) => ({ key: `stream-${n}` }) as ConsumerGroup)
    expect(read(afterSmall(...groups), ...groups)).toBe('bounded in bytes')
  })
})
