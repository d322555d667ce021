import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { CONCURRENCY, itemOf, Model, ROUTES } from '../../../test/consumer/schedule-model.js'
import type { RegisteredHandler } from '../handler-registry.js'
import type { Call, Delivery } from './delivery.js'
import { Scheduler } from './scheduler.js'

const KINDS = ['add', 'add', 'add', 'next', 'next', 'next', 'settle', 'settle', 'end', 'wake', 'drop'] as const
const step = fc.record({
  kind: fc.constantFrom(...KINDS),
  a: fc.nat(1_000),
  route: fc.constantFrom(0, 1, 2, 2, 2, 3),
  // Most have an ordering key: there is most to break.
  orderingKey: fc.nat(3),
  // Most were never delivered before, and have not failed.
  deliveryCount: fc.nat(7).map((n) => Math.max(0, n - 4)),
  attempts: fc.nat(4).map((n) => Math.max(0, n - 3)),
  taken: fc.boolean(),
  outcome: fc.nat(3),
})

const any = <Thing>(things: readonly Thing[], a: number): Thing | undefined => things[a % Math.max(1, things.length)]

const MIB = 2 ** 20

/** At no cap of its own. */
const WIDE: RegisteredHandler = { ...ROUTES[1], concurrency: 10 }

describe('the schedule', () => {
  it('keeps caps, ordering keys, batches and counts, and forgets nothing, whatever is asked of it', () => {
    const begun = { alone: 0, inBatches: 0, suspects: 0 }
    const steps = fc.property(fc.array(step, { minLength: 1, maxLength: 80, size: 'max' }), (all) => {
      const model = new Model()
      for (const { kind, a, route, orderingKey, deliveryCount, attempts, taken, outcome } of all) {
        if (kind === 'add') model.add(route, orderingKey, deliveryCount, attempts, taken)
        else if (kind === 'next') model.next()
        else if (kind === 'settle') model.settle(any(model.calls, a), outcome)
        else if (kind === 'end') model.end(any(model.calls, a), outcome)
        else if (kind === 'wake') model.wake(any([...model.waiting], a))
        else model.drop(any(model.held, a))
        model.agrees()
        const { deliveries = [], suspect = false } = model.calls.at(-1) ?? {}
        begun[suspect ? 'suspects' : deliveries.length > 1 ? 'inBatches' : 'alone'] += 1
      }
      model.drain()
    })
    fc.assert(steps, { numRuns: 800 })
    // A run in which one kind of call never came about would show nothing of it.
    for (const often of Object.values(begun)) expect(often).toBeGreaterThan(500)
  })

  it('takes nothing along in a batch that waits for itself', () => {
    const schedule = new Scheduler(CONCURRENCY)
    const [first, second, third] = [0, 1, 2].map((n) => itemOf(n, { route: ROUTES[3], orderingKey: 'a' })) as [
      Delivery,
      Delivery,
      Delivery,
    ]
    for (const delivery of [first, second, third]) schedule.add(delivery)
    const call = schedule.next() as Call
    expect(call).toEqual([first, second, third])
    // Each has a pause of its own; that of the first is over first.
    for (const delivery of call) schedule.wait(delivery)
    schedule.end(call)
    schedule.requeue(first)
    expect(schedule.next()).toEqual([first])
    schedule.requeue(second)
    expect([first.state, second.state, third.state]).toEqual(['running', 'behind', 'waiting'])
  })

  it('begins first what was queued again, and then what arrived later', () => {
    const schedule = new Scheduler(CONCURRENCY)
    const [first, second] = [itemOf(0), itemOf(1)]
    schedule.add(first)
    const call = schedule.next() as Call
    schedule.add(second)
    schedule.requeue(first)
    schedule.end(call)
    expect([schedule.next(), schedule.next(), schedule.next()]).toEqual([[first], [second], undefined])
  })

  it('begins what was left before what is new, and what has failed after all that is queued', () => {
    const schedule = new Scheduler(CONCURRENCY)
    const [failed, fresh, left] = [itemOf(0, { taken: true }), itemOf(1), itemOf(2, { taken: true })]
    schedule.add(failed)
    const call = schedule.next() as Call
    schedule.wait(failed)
    schedule.end(call)
    failed.attempts = 1
    for (const delivery of [fresh, left]) schedule.add(delivery)
    schedule.requeue(failed)
    const begun = [1, 2, 3].map(() => {
      const next = schedule.next() as Call
      schedule.remove(next[0] as Delivery)
      schedule.end(next)
      return next[0]
    })
    expect(begun).toEqual([left, fresh, failed])
  })

  it('runs one suspect at a time, and other work next to it', () => {
    const schedule = new Scheduler(CONCURRENCY)
    const [one, other] = [itemOf(0, { deliveryCount: 2 }), itemOf(1, { deliveryCount: 4, route: ROUTES[2] })]
    const harmless = itemOf(2, { deliveryCount: 1 })
    for (const delivery of [one, other, harmless]) schedule.add(delivery)
    const call = schedule.next() as Call
    expect([call, schedule.next(), schedule.next()]).toEqual([[one], [harmless], undefined])
    schedule.remove(one)
    expect(schedule.next()).toBeUndefined()
    schedule.end(call)
    expect(schedule.next()).toEqual([other])
  })

  it('counts by handler and stream what waits, and what a blocked handler holds up', () => {
    const schedule = new Scheduler(CONCURRENCY)
    const [route] = ROUTES
    const [first, second, suspect] = [
      itemOf(0, { route }),
      itemOf(1, { route, taken: true }),
      itemOf(2, { route, taken: true, deliveryCount: 2 }),
    ]
    const counts = () => [schedule.waitingBy(route, 'things'), schedule.blocked, schedule.queuedLeftOf(route)]
    for (const delivery of [first, second, suspect, itemOf(3)]) schedule.add(delivery)
    expect(counts()).toEqual([0, 0, 2])
    schedule.block(route)
    expect([...counts(), schedule.waitingBy(route, 'others')]).toEqual([3, 3, 2, 0])
    schedule.wait(first)
    expect(counts()).toEqual([3, 2, 2])
    // What runs keeps no other from being tried.
    vi.spyOn(Math, 'random').mockReturnValueOnce(0.99)
    second.tried = true
    expect(schedule.probe(route)).toEqual([suspect])
    expect(counts()).toEqual([2, 1, 1])
    schedule.unblock(route)
    expect(counts()).toEqual([1, 0, 1])
    schedule.remove(first)
    expect(counts()).toEqual([0, 0, 1])
  })

  it('gives a large one the next bytes, and begins small ones meanwhile, also those behind it', () => {
    const schedule = new Scheduler(4)
    const [one, two] = [itemOf(0, { route: ROUTES[1], size: 5 * MIB }), itemOf(1, { route: WIDE, size: 5 * MIB })]
    const [third, small] = [itemOf(2, { route: WIDE, size: 2 * MIB }), itemOf(3, { route: WIDE })]
    schedule.add(one)
    const call = schedule.next() as Call
    for (const delivery of [two, third, small]) schedule.add(delivery)
    // The third would fit.
    expect([call, schedule.next(), schedule.next()]).toEqual([[one], [small], undefined])
    schedule.end(call)
    schedule.remove(one)
    expect([schedule.next(), schedule.next()]).toEqual([[two], [third]])
  })

  it('begins no more small ones than have 4 MiB together, however many places are free', () => {
    const schedule = new Scheduler(100)
    const route = { ...ROUTES[1], concurrency: 100 }
    for (let n = 0; n < 80; n++) schedule.add(itemOf(n, { route, size: 64 * 1024 }))
    const calls: Call[] = []
    for (let call = schedule.next(); call; call = schedule.next()) calls.push(call)
    expect(calls).toHaveLength(64)
    schedule.end(calls[0] as Call)
    expect([schedule.next(), schedule.next()]).toEqual([[expect.anything()], undefined])
  })

  it('lets a large one be tried first when there are bytes for it, before other large ones', () => {
    const schedule = new Scheduler(4)
    const [one, two] = [0, 1].map((n) => itemOf(n, { route: WIDE, size: 5 * MIB })) as [Delivery, Delivery]
    const blocked = itemOf(3, { route: ROUTES[1], size: 5 * MIB })
    schedule.block(ROUTES[1])
    schedule.add(one)
    const call = schedule.next() as Call
    for (const delivery of [two, blocked]) schedule.add(delivery)
    expect([schedule.probe(ROUTES[1]), schedule.next()]).toEqual([undefined, undefined])
    schedule.end(call)
    expect(schedule.next()).toBeUndefined()
    expect(schedule.probe(ROUTES[1])).toEqual([blocked])
  })

  it('does not keep the bytes for one whose handler is blocked meanwhile', () => {
    const schedule = new Scheduler(4)
    const [one, two] = [itemOf(0, { route: WIDE, size: 5 * MIB }), itemOf(1, { route: ROUTES[1], size: 5 * MIB })]
    const third = itemOf(2, { route: WIDE, size: 2 * MIB })
    schedule.add(one)
    expect(schedule.next()).toEqual([one])
    schedule.add(two)
    expect(schedule.next()).toBeUndefined()
    schedule.add(third)
    expect(schedule.next()).toBeUndefined()
    schedule.block(ROUTES[1])
    expect(schedule.next()).toEqual([third])
  })
})
