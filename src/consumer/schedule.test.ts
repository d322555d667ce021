import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Item, State } from './item.js'
import type { Route } from './routes.js'
import { Schedule } from './schedule.js'

const CONCURRENCY = 3

const policy = { maxAttempts: 10, backoff: () => 0 }
const routeOf = (concurrency: number, size?: number): Route => ({
  work: size === undefined ? { kind: 'one', handle() {} } : { kind: 'batch', handle() {}, size },
  ...{ concurrency, policy, key: undefined },
})
const ROUTES = [routeOf(1), routeOf(2), routeOf(2, 3), routeOf(1, 4)] as const
const sizeOf = ({ work }: Route): number => (work.kind === 'batch' ? work.size : 1)

/** Only what the schedule looks at. */
const itemOf = (n: number, given: Partial<Item> = {}): Item =>
  ({
    ...{ key: 'things', id: `${n}-0`, route: ROUTES[1], lane: undefined, deliveries: 0, attempts: 0, state: 'queued' },
    ...given,
  }) as Item

const STATES: readonly State[] = ['queued', 'behind', 'running', 'waiting', 'gone']

const isSuspect = ({ deliveries }: Item): boolean => deliveries >= 2

interface Call {
  items: Item[]
  /** Those of which it was not said yet what becomes of them, in their order. */
  left: Item[]
  /** Lanes of which an item did not come to its end: what is behind it in this call is not run. */
  blocked: Set<string>
  suspect: boolean
}

/** The same in the plainest way: a list of all that is held, each searched anew; and what a worker does with a schedule. */
class Model {
  readonly schedule = new Schedule(CONCURRENCY)
  readonly held: Item[] = []
  readonly waiting = new Set<Item>()
  readonly offered = new Set<Item>()
  calls: Call[] = []
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
    for (const item of items) this.offered.add(item)
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
    expect(found).toEqual({
      running: this.calls.length,
      held: held.length,
      heldOf: keys.map((key) => held.filter((item) => item.key === key).length),
      counts: STATES.map((state) => states.filter((each) => each === state).length),
      states,
      known: held.length,
      listed: held.map(({ id }) => id),
    })
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
    const suspect = ready.find(isSuspect)
    if (suspect && isFree(suspect.route) && !calls.some((call) => call.suspect)) return [suspect]
    const first = ready.find((item) => !isSuspect(item) && isFree(item.route))
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

const KINDS = ['add', 'add', 'add', 'next', 'next', 'next', 'settle', 'settle', 'end', 'wake', 'drop'] as const
const step = fc.record({
  kind: fc.constantFrom(...KINDS),
  a: fc.nat(1_000),
  route: fc.constantFrom(0, 1, 2, 2, 2, 3),
  // Most stand in a lane: there is most to break.
  lane: fc.nat(3),
  // Most were never delivered before, and have not failed.
  deliveries: fc.nat(7).map((n) => Math.max(0, n - 4)),
  attempts: fc.nat(4).map((n) => Math.max(0, n - 3)),
  outcome: fc.nat(3),
})

const any = <Thing>(things: readonly Thing[], a: number): Thing | undefined => things[a % Math.max(1, things.length)]

describe('the schedule', () => {
  it('keeps caps, lanes, batches and counts, and forgets nothing, whatever is asked of it', () => {
    const begun = { alone: 0, inBatches: 0, suspects: 0 }
    const steps = fc.property(fc.array(step, { minLength: 1, maxLength: 80, size: 'max' }), (taken) => {
      const model = new Model()
      for (const { kind, a, route, lane, deliveries, attempts, outcome } of taken) {
        if (kind === 'add') model.add(route, lane, deliveries, attempts)
        else if (kind === 'next') model.next()
        else if (kind === 'settle') model.settle(any(model.calls, a), outcome)
        else if (kind === 'end') model.end(any(model.calls, a), outcome)
        else if (kind === 'wake') model.wake(any([...model.waiting], a))
        else model.drop(any(model.held, a))
        model.agrees()
        const { items = [], suspect = false } = model.calls.at(-1) ?? {}
        begun[suspect ? 'suspects' : items.length > 1 ? 'inBatches' : 'alone'] += 1
      }
      model.drain()
    })
    fc.assert(steps, { numRuns: 800 })
    // A run in which one kind of call never came about would show nothing of it.
    for (const often of Object.values(begun)) expect(often).toBeGreaterThan(500)
  })

  it('takes nothing along in a batch that waits for itself', () => {
    const schedule = new Schedule(CONCURRENCY)
    const [first, second, third] = [0, 1, 2].map((n) => itemOf(n, { route: ROUTES[3], lane: 'a' })) as [
      Item,
      Item,
      Item,
    ]
    for (const item of [first, second, third]) schedule.add(item)
    const call = schedule.next() as Item[]
    expect(call).toEqual([first, second, third])
    // Each has a pause of its own; that of the first is over first.
    for (const item of call) schedule.wait(item)
    schedule.end(call)
    schedule.requeue(first)
    expect(schedule.next()).toEqual([first])
    schedule.requeue(second)
    expect([first.state, second.state, third.state]).toEqual(['running', 'behind', 'waiting'])
  })

  it('begins first what was queued again, and then what arrived later', () => {
    const schedule = new Schedule(CONCURRENCY)
    const [first, second] = [itemOf(0), itemOf(1)]
    schedule.add(first)
    const call = schedule.next() as Item[]
    schedule.add(second)
    schedule.requeue(first)
    schedule.end(call)
    expect([schedule.next(), schedule.next(), schedule.next()]).toEqual([[first], [second], undefined])
  })

  it('runs one suspect at a time, and other work beside it', () => {
    const schedule = new Schedule(CONCURRENCY)
    const [one, other] = [itemOf(0, { deliveries: 2 }), itemOf(1, { deliveries: 4, route: ROUTES[2] })]
    const harmless = itemOf(2, { deliveries: 1 })
    for (const item of [one, other, harmless]) schedule.add(item)
    const call = schedule.next() as Item[]
    expect([call, schedule.next(), schedule.next()]).toEqual([[one], [harmless], undefined])
    schedule.remove(one)
    expect(schedule.next()).toBeUndefined()
    schedule.end(call)
    expect(schedule.next()).toEqual([other])
  })
})
