import { isDeepStrictEqual } from 'node:util'
import { expect } from 'vitest'
import type { Item, State } from '../../src/consumer/item.js'
import type { Route } from '../../src/consumer/routes.js'
import { Schedule } from '../../src/consumer/schedule.js'

export const CONCURRENCY = 3

const policy = { maxAttempts: 10, retryFor: 1_000, backoff: () => 0 }
const routeOf = (concurrency: number, size?: number): Route => ({
  work: size === undefined ? { kind: 'one', handle() {} } : { kind: 'batch', handle() {}, size },
  ...{ types: [], concurrency, policy, key: undefined },
})
export const ROUTES = [routeOf(1), routeOf(2), routeOf(2, 3), routeOf(1, 4)] as const
const sizeOf = ({ work }: Route): number => (work.kind === 'batch' ? work.size : 1)

/** Only what the schedule looks at. */
export const itemOf = (n: number, given: Partial<Item> = {}): Item =>
  ({
    ...{
      key: 'things',
      id: `${n}-0`,
      route: ROUTES[1],
      lane: undefined,
      deliveries: 0,
      attempts: 0,
      state: 'queued',
      size: 1,
    },
    ...given,
  }) as Item

const STATES: readonly State[] = ['queued', 'behind', 'running', 'waiting', 'gone']

const isSuspect = ({ deliveries }: Item): boolean => deliveries >= 2

export interface Call {
  items: Item[]
  /** Those of which it was not said yet what becomes of them, in their order. */
  left: Item[]
  /** Lanes of which an item did not come to its end: what is behind it in this call is not run. */
  blocked: Set<string>
  suspect: boolean
}

/** The same in the plainest way: a list of all that is held, each searched anew; and what a worker does with a schedule. */
export class Model {
  readonly schedule = new Schedule(CONCURRENCY)
  readonly held: Item[] = []
  readonly waiting = new Set<Item>()
  calls: Call[] = []
  /** In which turn the last call of a handler began. */
  readonly served = new Map<Route, number>()
  #turn = 0
  added = 0

  add(route: number, lane: number, deliveries: number, attempts: number): void {
    const key = lane % 2 === 0 ? 'things' : 'things:1'
    const item = itemOf(this.added++, {
      ...{ key, route: ROUTES[route] as Route, deliveries, attempts },
      lane: lane < 3 ? `${key} s${lane}` : undefined,
    })
    this.held.push(item)
    this.schedule.add(item)
  }

  /** Begins a call, after having said which it must be. */
  next(): boolean {
    const expected = this.#expected()
    const items = this.schedule.next()
    expect(items?.map(({ id }) => id)).toEqual(expected?.map(({ id }) => id))
    if (!items) return false
    const [first] = items as [Item]
    this.#holdsRules(items)
    this.served.set(first.route, ++this.#turn)
    this.calls.push({ items, left: [...items], blocked: new Set(), suspect: isSuspect(first) })
    // A worker counts its own delivery of what it has taken over.
    for (const item of items) if (item.deliveries > 0) item.deliveries += 1
    return true
  }

  /** Says of a call's next item what becomes of it: it is done, is to wait, or is queued again. */
  settle(call: Call | undefined, outcome: number): void {
    const item = call?.left.shift()
    if (!call || !item || item.state === 'gone') return
    const isBlocked = item.lane !== undefined && call.blocked.has(item.lane)
    if (outcome === 0 && !isBlocked) {
      this.#forget(item)
      return
    }
    if (item.lane !== undefined) call.blocked.add(item.lane)
    if (outcome === 1) {
      item.attempts += 1
      item.deliveries = 0
    }
    if (outcome === 3) this.schedule.requeue(item)
    else {
      this.waiting.add(item)
      this.schedule.wait(item)
    }
  }

  end(call: Call | undefined, outcome: number): void {
    if (!call) return
    while (call.left.length > 0) this.settle(call, outcome)
    this.calls = this.calls.filter((other) => other !== call)
    this.schedule.end(call.items)
  }

  /** Its time has come. */
  wake(item: Item | undefined): void {
    if (!item) return
    this.waiting.delete(item)
    this.schedule.requeue(item)
  }

  /** Another worker has it. */
  drop(item: Item | undefined): void {
    if (!item || this.#isRunning(item)) return
    this.#forget(item)
  }

  agrees(): void {
    const { schedule, held } = this
    const states = held.map((item) => this.#stateOf(item))
    const keys = ['things', 'things:1', 'others']
    const found = {
      running: schedule.running,
      held: schedule.held,
      heldOf: keys.map((key) => schedule.heldOf(key)),
      counts: STATES.map((state) => schedule.count(state)),
      states: held.map(({ state }) => state),
      known: held.filter((item) => schedule.get(item.key, item.id) === item).length,
      listed: [...schedule.items()].map(({ id }) => id),
    }
    const expected = {
      running: this.calls.length,
      held: held.length,
      heldOf: keys.map((key) => held.filter((item) => item.key === key).length),
      counts: STATES.map((state) => states.filter((each) => each === state).length),
      states,
      known: held.length,
      listed: held.map(({ id }) => id),
    }
    // Vitest takes long to find two things equal.
    if (!isDeepStrictEqual(found, expected)) expect(found).toEqual(expected)
  }

  /** When everything ends well, everything was begun that nobody took away. */
  drain(): void {
    for (;;) {
      for (const item of [...this.waiting]) this.wake(item)
      while (this.next());
      if (this.calls.length === 0) break
      this.end(this.calls[0], 0)
      this.agrees()
    }
    expect(this.held).toEqual([])
  }

  #expected(): Item[] | undefined {
    const { calls, held } = this
    const isFree = (route: Route) => calls.filter(({ items }) => items[0]?.route === route).length < route.concurrency
    if (calls.length >= CONCURRENCY) return undefined
    const ready = held.filter((item) => this.#stateOf(item) === 'queued')
    const suspect = ready.find((item) => isSuspect(item) && isFree(item.route))
    if (suspect && !calls.some((call) => call.suspect)) return [suspect]
    const may = ready.filter((item) => !isSuspect(item) && isFree(item.route))
    const running = (route: Route) => calls.filter(({ items }) => items[0]?.route === route).length
    const order = (route: Route) => running(route) * 1e6 + (this.served.get(route) ?? 0)
    const least = Math.min(...may.map(({ route }) => order(route)))
    const first = may.find(({ route }) => order(route) === least)
    if (!first || first.attempts > 0) return first && [first]
    const fits = (item: Item) => item.route === first.route && item.attempts === 0 && !isSuspect(item)
    const batch = ready.filter(fits).slice(0, sizeOf(first.route))
    for (const { lane } of [...batch]) {
      const behind = held.filter((item) => item.lane === lane && lane !== undefined).slice(1)
      const other = behind.findIndex((item) => !fits(item) || this.#stateOf(item) !== 'behind')
      batch.push(...behind.slice(0, other < 0 ? behind.length : other))
    }
    return batch.slice(0, sizeOf(first.route))
  }

  /** What must hold whatever the order: it does not follow from the model, but the model might be wrong, too. */
  #holdsRules(items: readonly Item[]): void {
    const [{ route }] = items as [Item]
    const callsOf = this.calls.filter((call) => call.items[0]?.route === route)
    expect(this.calls.length).toBeLessThan(CONCURRENCY)
    expect(callsOf.length).toBeLessThan(route.concurrency)
    expect(items.length).toBeLessThanOrEqual(sizeOf(route))
    expect(new Set(items).size).toBe(items.length)
    if (items.some(({ attempts }) => attempts > 0)) expect(items).toHaveLength(1)
    if (items.some(isSuspect)) {
      expect(items).toHaveLength(1)
      expect(this.calls.filter(({ suspect }) => suspect)).toEqual([])
    }
    for (const [place, item] of items.entries()) {
      expect(item.route).toBe(route)
      const lane = this.held.filter(({ lane }) => lane === item.lane && lane !== undefined)
      // All that came before it in its lane is gone, or stands before it in this call.
      const before = lane.slice(0, Math.max(0, lane.indexOf(item)))
      expect(items.slice(0, place).filter(({ lane }) => lane === item.lane && lane !== undefined)).toEqual(before)
      for (const other of lane) expect(this.#isRunning(other)).toBe(false)
    }
  }

  #isRunning(item: Item): boolean {
    return this.calls.some(({ left, blocked }) => left.includes(item) && !blocked.has(item.lane ?? ''))
  }

  #stateOf(item: Item): State {
    if (this.waiting.has(item)) return 'waiting'
    if (this.calls.some(({ left }) => left.includes(item))) return 'running'
    const first = item.lane === undefined ? item : this.held.find(({ lane }) => lane === item.lane)
    return first === item ? 'queued' : 'behind'
  }

  #forget(item: Item): void {
    this.held.splice(this.held.indexOf(item), 1)
    this.waiting.delete(item)
    this.schedule.remove(item)
  }
}
