import { isDeepStrictEqual } from 'node:util'
import { expect } from 'vitest'
import type { Delivery, DeliveryState, Call as HandlerCall } from '../../src/consumer/delivery/delivery.js'
import { Scheduler } from '../../src/consumer/delivery/scheduler.js'
import type { RegisteredHandler } from '../../src/consumer/handler-registry.js'

export const CONCURRENCY = 3

const policy = { maxAttempts: 10, retryFor: 1_000, backoff: () => 0 }
const routeOf = (concurrency: number, size?: number): RegisteredHandler => ({
  work: size === undefined ? { kind: 'one', handle() {} } : { kind: 'batch', handle() {}, size },
  ...{ types: [], concurrency, policy, key: undefined },
})
export const ROUTES = [routeOf(1), routeOf(2), routeOf(2, 3), routeOf(1, 4)] as const
const sizeOf = ({ work }: RegisteredHandler): number => (work.kind === 'batch' ? work.size : 1)

/** Only what the schedule looks at. */
export const itemOf = (n: number, given: Partial<Delivery> = {}): Delivery =>
  ({
    ...{
      key: 'things',
      id: `${n}-0`,
      route: ROUTES[1],
      orderingKey: undefined,
      taken: false,
      deliveryCount: 0,
      attempts: 0,
      state: 'queued',
      size: 1,
    },
    ...given,
  }) as Delivery

const STATES: readonly DeliveryState[] = ['queued', 'behind', 'running', 'waiting', 'gone']

const isSuspect = ({ deliveryCount }: Delivery): boolean => deliveryCount >= 2

export interface Call {
  deliveries: HandlerCall
  /** Those of which it was not said yet what becomes of them, in their order. */
  left: Delivery[]
  /** Ordering keys of which a delivery did not come to its end: what is behind it in this call is not run. */
  blocked: Set<string>
  suspect: boolean
}

/** The same in the plainest way: a list of all that is held, each searched anew; and what a worker does with a schedule. */
export class Model {
  readonly schedule = new Scheduler(CONCURRENCY)
  readonly held: Delivery[] = []
  readonly waiting = new Set<Delivery>()
  calls: Call[] = []
  /** In which turn the last call of a handler began. */
  readonly served = new Map<RegisteredHandler, number>()
  #turn = 0
  added = 0
  /** By which they begin; what was left comes before all others. */
  readonly #ranks = new Map<Delivery, { isLeft: boolean; arrival: number }>()
  #arrivals = 0

  add(route: number, orderingKey: number, deliveryCount: number, attempts: number, taken: boolean): void {
    const key = orderingKey % 2 === 0 ? 'things' : 'things:1'
    const delivery = itemOf(this.added++, {
      ...{ key, route: ROUTES[route] as RegisteredHandler, deliveryCount, attempts, taken },
      orderingKey: orderingKey < 3 ? `${key} s${orderingKey}` : undefined,
    })
    this.#ranks.set(delivery, { isLeft: taken && orderingKey === 3, arrival: this.#arrivals++ })
    this.held.push(delivery)
    this.schedule.add(delivery)
  }

  /** Begins a call, after having said which it must be. */
  next(): boolean {
    const expected = this.#expected()
    const deliveries = this.schedule.next()
    expect(deliveries?.map(({ id }) => id)).toEqual(expected?.map(({ id }) => id))
    if (!deliveries) return false
    const [first] = deliveries
    this.#holdsRules(deliveries)
    this.served.set(first.route, ++this.#turn)
    this.calls.push({ deliveries, left: [...deliveries], blocked: new Set(), suspect: isSuspect(first) })
    // A worker counts its own delivery of what it has taken over.
    for (const delivery of deliveries) if (delivery.deliveryCount > 0) delivery.deliveryCount += 1
    return true
  }

  /** Says of a call's next delivery what becomes of it: it is done, is to wait, or is queued again. */
  settle(call: Call | undefined, outcome: number): void {
    const delivery = call?.left.shift()
    if (!call || !delivery || delivery.state === 'gone') return
    const isBlocked = delivery.orderingKey !== undefined && call.blocked.has(delivery.orderingKey)
    if (outcome === 0 && !isBlocked) {
      this.#forget(delivery)
      return
    }
    if (delivery.orderingKey !== undefined) call.blocked.add(delivery.orderingKey)
    if (outcome === 1) {
      delivery.attempts += 1
      delivery.deliveryCount = 0
    }
    if (outcome === 3) this.#requeue(delivery)
    else {
      this.waiting.add(delivery)
      this.schedule.wait(delivery)
    }
  }

  end(call: Call | undefined, outcome: number): void {
    if (!call) return
    while (call.left.length > 0) this.settle(call, outcome)
    this.calls = this.calls.filter((other) => other !== call)
    this.schedule.end(call.deliveries)
  }

  /** Its time has come. */
  wake(delivery: Delivery | undefined): void {
    if (!delivery) return
    this.waiting.delete(delivery)
    this.#requeue(delivery)
  }

  #requeue(delivery: Delivery): void {
    const hasFailed = delivery.attempts > 0 && delivery.orderingKey === undefined
    if (hasFailed) this.#ranks.set(delivery, { isLeft: false, arrival: this.#arrivals++ })
    this.schedule.requeue(delivery)
  }

  /** Another worker has it. */
  drop(delivery: Delivery | undefined): void {
    if (!delivery || this.#isRunning(delivery)) return
    this.#forget(delivery)
  }

  agrees(): void {
    const { schedule, held } = this
    const states = held.map((delivery) => this.#stateOf(delivery))
    const keys = ['things', 'things:1', 'others']
    const idsOf = (deliveries: readonly Delivery[]) =>
      keys.map((key) => deliveries.filter((delivery) => delivery.key === key).map(({ id }) => id))
    const found = {
      running: schedule.running,
      held: schedule.held,
      heldOf: keys.map((key) => schedule.heldOf(key)),
      left: ROUTES.map((route) => schedule.leftOf(route)),
      counts: STATES.map((state) => schedule.count(state)),
      states: held.map(({ state }) => state),
      known: held.filter((delivery) => schedule.get(delivery.key, delivery.id) === delivery).length,
      listed: idsOf([...schedule.deliveries()]),
    }
    const expected = {
      running: this.calls.length,
      held: held.length,
      heldOf: keys.map((key) => held.filter((delivery) => delivery.key === key).length),
      left: ROUTES.map((route) => {
        const active = held.filter((delivery, place) => delivery.taken && states[place] !== 'waiting')
        return active.filter((delivery) => delivery.route === route).length
      }),
      counts: STATES.map((state) => states.filter((each) => each === state).length),
      states,
      known: held.length,
      listed: idsOf(held),
    }
    // Vitest takes long to find two things equal.
    if (!isDeepStrictEqual(found, expected)) expect(found).toEqual(expected)
  }

  /** When everything ends well, everything was begun that nobody took away. */
  drain(): void {
    for (;;) {
      for (const delivery of [...this.waiting]) this.wake(delivery)
      while (this.next());
      if (this.calls.length === 0) break
      this.end(this.calls[0], 0)
      this.agrees()
    }
    expect(this.held).toEqual([])
  }

  #expected(): Delivery[] | undefined {
    const { calls, held } = this
    const isFree = (route: RegisteredHandler) =>
      calls.filter(({ deliveries }) => deliveries[0]?.route === route).length < route.concurrency
    if (calls.length >= CONCURRENCY) return undefined
    const rankOf = (delivery: Delivery) => this.#ranks.get(delivery) as { isLeft: boolean; arrival: number }
    const ready = held
      .filter((delivery) => this.#stateOf(delivery) === 'queued')
      .sort((a, b) => Number(rankOf(b).isLeft) - Number(rankOf(a).isLeft) || rankOf(a).arrival - rankOf(b).arrival)
    const suspect = ready.find((delivery) => isSuspect(delivery) && isFree(delivery.route))
    if (suspect && !calls.some((call) => call.suspect)) return [suspect]
    const may = ready.filter((delivery) => !isSuspect(delivery) && isFree(delivery.route))
    const running = (route: RegisteredHandler) =>
      calls.filter(({ deliveries }) => deliveries[0]?.route === route).length
    const order = (route: RegisteredHandler) => running(route) * 1e6 + (this.served.get(route) ?? 0)
    const least = Math.min(...may.map(({ route }) => order(route)))
    const first = may.find(({ route }) => order(route) === least)
    if (!first || first.attempts > 0) return first && [first]
    const fits = (delivery: Delivery) =>
      delivery.route === first.route && delivery.attempts === 0 && !isSuspect(delivery)
    const batch = ready.filter(fits).slice(0, sizeOf(first.route))
    for (const { orderingKey } of [...batch]) {
      const behind = held
        .filter((delivery) => delivery.orderingKey === orderingKey && orderingKey !== undefined)
        .slice(1)
      const other = behind.findIndex((delivery) => !fits(delivery) || this.#stateOf(delivery) !== 'behind')
      batch.push(...behind.slice(0, other < 0 ? behind.length : other))
    }
    return batch.slice(0, sizeOf(first.route))
  }

  /** What must hold whatever the order: it does not follow from the model, but the model might be wrong, too. */
  #holdsRules(deliveries: readonly Delivery[]): void {
    const [{ route }] = deliveries as [Delivery]
    const callsOf = this.calls.filter((call) => call.deliveries[0]?.route === route)
    expect(this.calls.length).toBeLessThan(CONCURRENCY)
    expect(callsOf.length).toBeLessThan(route.concurrency)
    expect(deliveries.length).toBeLessThanOrEqual(sizeOf(route))
    expect(new Set(deliveries).size).toBe(deliveries.length)
    if (deliveries.some(({ attempts }) => attempts > 0)) expect(deliveries).toHaveLength(1)
    if (deliveries.some(isSuspect)) {
      expect(deliveries).toHaveLength(1)
      expect(this.calls.filter(({ suspect }) => suspect)).toEqual([])
    }
    for (const [place, delivery] of deliveries.entries()) {
      expect(delivery.route).toBe(route)
      const orderingKey = this.held.filter(
        ({ orderingKey }) => orderingKey === delivery.orderingKey && orderingKey !== undefined,
      )
      // All that came before it in its ordering key is gone, or stands before it in this call.
      const before = orderingKey.slice(0, Math.max(0, orderingKey.indexOf(delivery)))
      expect(
        deliveries
          .slice(0, place)
          .filter(({ orderingKey }) => orderingKey === delivery.orderingKey && orderingKey !== undefined),
      ).toEqual(before)
      for (const other of orderingKey) expect(this.#isRunning(other)).toBe(false)
    }
  }

  #isRunning(delivery: Delivery): boolean {
    return this.calls.some(({ left, blocked }) => left.includes(delivery) && !blocked.has(delivery.orderingKey ?? ''))
  }

  #stateOf(delivery: Delivery): DeliveryState {
    if (this.waiting.has(delivery)) return 'waiting'
    if (this.calls.some(({ left }) => left.includes(delivery))) return 'running'
    const first =
      delivery.orderingKey === undefined
        ? delivery
        : this.held.find(({ orderingKey }) => orderingKey === delivery.orderingKey)
    return first === delivery ? 'queued' : 'behind'
  }

  #forget(delivery: Delivery): void {
    this.held.splice(this.held.indexOf(delivery), 1)
    this.waiting.delete(delivery)
    this.schedule.remove(delivery)
  }
}
