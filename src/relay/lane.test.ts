import fc from 'fast-check'
import { Command } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../test/support/any-text.js'
import { positionOf, positionPrefix, ZERO_POSITION } from '../event/position.js'
import { batchArguments } from '../redis/append.js'
import { type Batch, countEvent, Lane, type TakenEvent, takeEvent } from './lane.js'

const BYTES = 100
const newLane = () => new Lane('orders', 'lineage', 'session')
const newBatch = () => newLane().batch(1000, 1_000_000, BYTES)
const at = (transaction: number, index: number) => positionOf(positionPrefix(1, BigInt(transaction)), index)

/** Puts an event into a batch, as the receiver does: position, id, shape, values. */
function push(batch: Batch, { transaction, position, id, fields }: TakenEvent, bytes = BYTES, committedAt = 0): void {
  batch.args.push(position, id, Object.keys(fields).join('\n'), ...Object.values(fields))
  countEvent(batch, transaction, bytes, committedAt)
}

const event = (transaction: number, index: number, fields: Record<string, string> = { id: 'x' }): TakenEvent => ({
  transaction,
  position: at(transaction, index),
  id: `e${transaction}-${index}`,
  fields,
})

/** What a batch of these events must look like. */
function expectBatch(batch: Batch, events: TakenEvent[]): void {
  const runs: [number, number][] = []
  for (const { transaction } of events) {
    const last = runs.at(-1)
    if (last?.[0] === transaction) last[1] += 1
    else runs.push([transaction, 1])
  }
  const { args, transactions, counts } = batch
  expect({ events: batch.events, last: args.last, transactions, counts }).toEqual({
    events: events.length,
    last: events.at(-1)?.position ?? ZERO_POSITION,
    transactions: runs.map(([transaction]) => transaction),
    counts: runs.map(([, count]) => count),
  })
  const head = batchArguments('orders', 'lineage', 'session')
  head[head.length - 1] = at(0, 7)
  const shapes = events.map(({ fields }) => Object.keys(fields).join('\n'))
  const written = events.flatMap(({ position, id, fields }, i) => {
    const shape = shapes[i] === shapes[i - 1] ? '^' : (shapes[i] as string)
    return [position, id, shape, ...Object.values(fields)]
  })
  expect(args.encode(at(0, 7)).toString()).toBe(String(new Command('evalsha', [...head, ...written]).toWritable({})))
  expect(batch.bytes).toBeGreaterThanOrEqual(events.length * BYTES)
}

describe('a batch', () => {
  it('agrees with a plain list of its events, whatever is counted and taken out again', () => {
    const fields = fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), anyText, { minKeys: 1, maxKeys: 4 })
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ add: fields, transactions: fc.nat({ max: 2 }) }) },
      { weight: 2, arbitrary: fc.record({ take: fc.nat() }) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40, size: 'max' }), (steps) => {
        const batch = newBatch()
        const events: TakenEvent[] = []
        let transaction = 0
        steps.forEach((each, index) => {
          if ('add' in each) {
            transaction += each.transactions
            const added = event(transaction, index, each.add)
            push(batch, added)
            events.push(added)
          } else if (events.length > 0) {
            const i = each.take % events.length
            expect(takeEvent(batch, i)).toEqual(events.splice(i, 1)[0])
          }
          expectBatch(batch, events)
        })
      }),
    )
  })

  it('has the commit time of its oldest event', () => {
    const batch = newBatch()
    push(batch, event(1, 0), BYTES, 5_000)
    push(batch, event(2, 0), BYTES, 7_000)
    expect(batch.committedAt).toBe(5_000)
  })
})

describe('a lane', () => {
  /** Puts events of these sizes into the lane's batches; how many each batch got. */
  function fill(lane: Lane, sizes: number[], maxEvents: number, maxBytes: number): number[] {
    sizes.forEach((bytes, i) => {
      push(lane.batch(maxEvents, maxBytes, bytes), event(1, i), bytes)
    })
    return lane.batches.map(({ events }) => events)
  }

  it('begins another batch when the last one has as many events as it may', () => {
    expect(fill(newLane(), [1, 1, 1, 1, 1], 2, 1_000)).toEqual([2, 2, 1])
  })

  it('begins another batch before the last one has more bytes than it may', () => {
    expect(fill(newLane(), [60, 40, 1, 99, 1], 10, 100)).toEqual([2, 2, 1])
  })

  it('gives an event that is larger than a batch one of its own', () => {
    expect(fill(newLane(), [10, 500, 10], 10, 100)).toEqual([1, 1, 1])
  })

  it('never adds to a batch that is on its way', () => {
    const lane = newLane()
    expect(fill(lane, [1], 10, 100)).toEqual([1])
    lane.inFlight = 1
    expect(fill(lane, [1, 1], 10, 100)).toEqual([1, 2])
  })

  it('keeps its limits and every event, in order, whatever comes', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 150 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 8 }),
        (sizes, maxEvents) => {
          const lane = newLane()
          fill(lane, sizes, maxEvents, 100)
          for (const batch of lane.batches) {
            expect(batch.events).toBeGreaterThan(0)
            expect(batch.events).toBeLessThanOrEqual(maxEvents)
            expect(batch.bytes <= 100 || batch.events === 1).toBe(true)
          }
          const ids = lane.batches.flatMap((batch) =>
            Array.from({ length: batch.events }, () => takeEvent(batch, 0).id),
          )
          expect(ids).toEqual(sizes.map((_, i) => `e1-${i}`))
        },
      ),
    )
  })

  it('begins its chain at what was acknowledged when it sends again', () => {
    const lane = newLane()
    fill(lane, [1, 1], 1, 100)
    lane.inFlight = 2
    lane.acknowledged = at(1, 0)
    lane.sent = at(1, 1)
    lane.rewind()
    expect(lane).toMatchObject({ inFlight: 0, sent: at(1, 0), acknowledged: at(1, 0) })
    expect(lane.batches).toHaveLength(2)
  })
})
