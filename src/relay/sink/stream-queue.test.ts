import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { positionOf, positionPrefix } from '../../event/position.js'
import { StreamQueue } from './stream-queue.js'

const newQueue = () => new StreamQueue('orders', 'lineage', 'session')
const at = (index: number) => positionOf(positionPrefix(1, 1n), index)

describe('a queue', () => {
  /** Puts events of these sizes into the queue's batches; how many each batch got. */
  function fill(queue: StreamQueue, sizes: number[], maxEvents: number, maxBytes: number): number[] {
    sizes.forEach((bytes, i) => {
      const batch = queue.batch(maxEvents, maxBytes, bytes)
      batch.args.push(at(i), `e${i}`, 'id<id')
      batch.add(1, bytes, 0)
    })
    return queue.batches.map(({ events }) => events)
  }

  it('begins another batch when the last one has as many events as it may', () => {
    expect(fill(newQueue(), [1, 1, 1, 1, 1], 2, 1_000)).toEqual([2, 2, 1])
  })

  it('begins another batch before the last one has more bytes than it may', () => {
    expect(fill(newQueue(), [60, 40, 1, 99, 1], 10, 100)).toEqual([2, 2, 1])
  })

  it('gives an event that is larger than a batch one of its own', () => {
    expect(fill(newQueue(), [10, 500, 10], 10, 100)).toEqual([1, 1, 1])
  })

  it('never adds to a batch that is on its way', () => {
    const queue = newQueue()
    expect(fill(queue, [1], 10, 100)).toEqual([1])
    queue.send(0)
    expect(fill(queue, [1, 1], 10, 100)).toEqual([1, 2])
  })

  it('keeps its limits and every event, in order, whatever comes', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 150 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 8 }),
        (sizes, maxEvents) => {
          const queue = newQueue()
          fill(queue, sizes, maxEvents, 100)
          for (const batch of queue.batches) {
            expect(batch.events).toBeGreaterThan(0)
            expect(batch.events).toBeLessThanOrEqual(maxEvents)
            expect(batch.bytes <= 100 || batch.events === 1).toBe(true)
          }
          const ids = queue.batches.flatMap((batch) => Array.from({ length: batch.events }, () => batch.take(0).id))
          expect(ids).toEqual(sizes.map((_, i) => `e${i}`))
        },
      ),
    )
  })

  it('begins its chain at what was acknowledged when it sends again', () => {
    const queue = newQueue()
    fill(queue, [1, 1], 1, 100)
    const first = queue.send(0)
    queue.send(0)
    queue.acknowledge(first, { position: at(0), event: 'e0', entry: '1-0' }, 0)
    queue.reconnect()
    expect(queue).toMatchObject({ inFlight: 0, sent: at(0), acknowledged: at(0) })
    expect(queue.batches).toHaveLength(1)
  })
})
