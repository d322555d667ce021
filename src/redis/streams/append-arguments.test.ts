import fc from 'fast-check'
import { Command } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { anyText } from '../../../test/support/any-text.js'
import { positionOf, positionPrefix, ZERO_POSITION } from '../../event/position.js'
import { appendTarget, batchArguments } from './append.js'
import { AppendArguments } from './append-arguments.js'

const at = (n: number) => positionOf(positionPrefix(1, BigInt(n)), n)

interface Event {
  id: string
  shape: string
  /** Text or bytes, of any length. */
  values: (string | Uint8Array)[]
}

const long = fc.integer({ min: 0, max: 3_000 }).map((length) => new Uint8Array(length).fill(length))
const event: fc.Arbitrary<Event> = fc.record({
  id: anyText,
  shape: fc.constantFrom('type', 'type\ntime', 'ä\0\r\n$5\r\n'),
  values: fc.array(fc.oneof(anyText, fc.uint8Array({ maxLength: 80 }), long), { maxLength: 4 }),
})
const events = fc.array(event, { maxLength: 12 })

const KEY = 'orders:ä'

/** What the relay encodes. */
function encodeAll(all: Event[]): AppendArguments {
  const args = new AppendArguments(appendTarget(KEY, 'lineage', 'session'))
  add(args, all, 0)
  return args
}

function add(args: AppendArguments, all: Event[], from: number): void {
  all.forEach(({ id, shape, values }, i) => {
    const position = Buffer.from(`..${at(from + i)}..`)
    args.bytes(position, 2, position.length - 2)
    args.text(id)
    args.shape(shape)
    for (const value of values) {
      if (typeof value === 'string') args.text(value)
      else {
        // Amid others, and overwritten once it was given.
        const amid = Buffer.concat([Buffer.from('$3\r\n'), value, Buffer.from('$3')])
        args.bytes(amid, 4, amid.length - 2)
        amid.fill(0)
      }
    }
    args.endEvent()
  })
}

/** What ioredis makes of the same arguments. */
function encodedByIoredis(all: { position: string; event: Event }[], previous: string): string {
  const head = batchArguments(KEY, 'lineage', 'session')
  head[head.length - 1] = previous
  const args = all.flatMap(({ position, event: { id, shape, values } }, i) => [
    position,
    id,
    shape === all[i - 1]?.event.shape ? '^' : shape,
    ...values.map((value) => (typeof value === 'string' ? value : Buffer.from(value))),
  ])
  const written = new Command('evalsha', [...head, ...args]).toWritable({})
  return Buffer.from(written as string).toString('latin1')
}

const placed = (all: Event[], from = 0) => all.map((each, i) => ({ position: at(from + i), event: each }))
const latin1 = (bytes: Buffer) => bytes.toString('latin1')

describe('the command of a batch', () => {
  it('is to the byte what ioredis writes: any text, any bytes, any number of events', () => {
    fc.assert(
      fc.property(events, fc.nat({ max: 99 }), (all, previous) => {
        const args = encodeAll(all)
        expect(latin1(args.encode(at(previous)))).toBe(encodedByIoredis(placed(all), at(previous)))
        expect(args.last).toBe(all.length === 0 ? ZERO_POSITION : at(all.length - 1))
        args.release()
      }),
    )
  })

  it('is the same when it is sent again', () => {
    fc.assert(
      fc.property(events, (all) => {
        const args = encodeAll(all)
        const first = latin1(args.encode(at(1)))
        args.encode(at(2))
        expect(latin1(args.encode(at(1)))).toBe(first)
      }),
    )
  })

  it('without some of its events is to the byte what it is when they were never there', () => {
    fc.assert(
      fc.property(events, events, fc.array(fc.nat(), { maxLength: 12 }), (all, more, taken) => {
        const args = encodeAll(all)
        args.encode(at(50))
        const left = placed(all)
        for (const each of taken) {
          if (left.length === 0) break
          const index = each % left.length
          const [out] = left.splice(index, 1)
          expect(args.take(index).slice(0, 3)).toEqual([out?.position, out?.event.id, out?.event.shape])
        }
        expect(latin1(args.encode(at(50)))).toBe(encodedByIoredis(left, at(50)))
        add(args, more, 100)
        expect(latin1(args.encode(at(50)))).toBe(encodedByIoredis([...left, ...placed(more, 100)], at(50)))
      }),
    )
  })

  it('does not change once it was given to a connection, whatever becomes of the batch', () => {
    const change = fc.constantFrom('previous', 'take', 'add')
    fc.assert(
      fc.property(fc.array(event, { minLength: 1, maxLength: 6 }), fc.array(change), (all, changes) => {
        const args = encodeAll(all)
        const given = args.encode(at(1))
        const before = latin1(given)
        for (const each of changes) {
          if (each === 'take' && args.events > 0) args.take(0)
          if (each === 'add') add(args, all, 50)
          args.encode(at(each === 'previous' ? 2 : 1))
        }
        const other = encodeAll(all)
        other.encode(at(3))
        expect(latin1(given)).toBe(before)
        other.release()
        args.release()
      }),
    )
  })

  it('that was sent twice keeps its buffer, also when it is released', () => {
    fc.assert(
      fc.property(fc.array(event, { minLength: 1, maxLength: 6 }), (all) => {
        const args = encodeAll(all)
        const given = args.encode(at(1))
        const before = latin1(given)
        args.encode(at(1))
        args.release()
        const others = Array.from({ length: 4 }, () =>
          encodeAll([{ id: 'x'.repeat(given.length / 2), shape: 'type', values: [] }]),
        )
        expect(latin1(given)).toBe(before)
        for (const other of others) other.release()
      }),
    )
  })

  it('grows by doubling: a batch of 8 MiB is copied a few times, not once for each argument', () => {
    const args = encodeAll([])
    const data = Buffer.alloc(8_192, 'x')
    const buffers = new Set<unknown>()
    for (let n = 0; n < 1_024; n++) {
      args.bytes(data, 0, data.length)
      if (n % 64 === 0) buffers.add(args.capacity)
    }
    expect(args.capacity).toBeGreaterThanOrEqual(8 * 1_048_576)
    expect(buffers.size).toBeLessThanOrEqual(8)
  })
})
