import fc from 'fast-check'
import { Command } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../../test/support/any-text.js'
import { positionOf, positionPrefix, ZERO_POSITION } from '../../event/position.js'
import { appendTarget, batchArguments } from '../../redis/streams/append.js'
import { AppendArguments } from '../../redis/streams/append-arguments.js'
import { Batch, type TakenEvent } from './batch.js'

const BYTES = 100
const newBatch = () => new Batch(new AppendArguments(appendTarget('orders', 'lineage', 'session')))
const at = (transaction: number, index: number) => positionOf(positionPrefix(1, BigInt(transaction)), index)

/** Puts an event into a batch, as the receiver does: position, id, shape, values. */
function push(batch: Batch, { transaction, position, id, fields }: TakenEvent, bytes = BYTES, committedAt = 0): void {
  batch.args.push(position, id, Object.keys(fields).join('\n'), ...Object.values(fields))
  batch.add(transaction, bytes, committedAt)
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
            expect(batch.take(i)).toEqual(events.splice(i, 1)[0])
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
