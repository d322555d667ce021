import type { Item, State } from './item.js'
import { MAX_RUNNING_BYTES, MAX_SMALL_BYTES } from './limits.js'
import type { Route } from './routes.js'

/** What may have killed its worker more than once runs with no other such beside it. */
const isSuspect = (item: Item): boolean => item.deliveries >= 2

/** Other workers have left it, or it was set aside: it runs before what is new. In a lane it is as old as its place there. */
const isLeft = ({ taken, lane }: Item): boolean => taken && lane === undefined

const isActive = (state: State): boolean => state !== 'waiting' && state !== 'gone'

const isSmall = ({ size }: Item): boolean => size <= MAX_SMALL_BYTES

/** Those that a call takes of all that running calls may have. */
function bytesOf(items: readonly Item[]): number {
  const bytes = items.reduce((sum, { size }) => sum + size, 0)
  return bytes <= MAX_SMALL_BYTES ? 0 : bytes
}

/** The first of them, and those behind it that these bytes hold with it. */
function fitting(items: readonly Item[], maxBytes: number): Item[] {
  let bytes = 0
  const end = items.findIndex(({ size }, place) => {
    bytes += size
    return place > 0 && bytes > maxBytes
  })
  return end < 0 ? [...items] : items.slice(0, end)
}

/** Entries that do not run. */
interface Parked {
  waiting: number
  /** Behind others of their lane, too. */
  queued: number
}

const NONE_PARKED: Readonly<Parked> = { waiting: 0, queued: 0 }

/** More than any worker ever receives. */
const LEFT_FIRST = 2 ** 50

/**
 * What runs next, and how much is held. Pure: no clock, no I/O.
 *
 * Of a lane only the first item is queued, and it stays the first until it is gone; but a batch may take along those right
 * behind it. The caps of the consumer and of each route count calls: a batch is one.
 */
export class Schedule {
  readonly #concurrency: number
  readonly #ordered: boolean
  readonly #items = new Map<string, Item>()
  readonly #heldByKey = new Map<string, number>()
  /** By handler and stream. */
  readonly #parkedBy = new Map<Route, Map<string, Parked>>()
  /** Handlers of which nothing begins but a probe. */
  readonly #blocked = new Set<Route>()
  /** By handler: what was left, unless it waits. */
  readonly #left = new Map<Route, number>()
  /** By handler: in which turn its last call began. */
  readonly #served = new Map<Route, number>()
  /** In the order of arrival. */
  readonly #queues = new Map<Route, Item[]>()
  readonly #suspects: Item[] = []
  /** In the order of arrival, whatever their state. */
  readonly #lanes = new Map<string, Item[]>()
  readonly #calls = new Map<Route, number>()
  readonly #counts: Record<State, number> = { queued: 0, behind: 0, running: 0, waiting: 0, gone: 0 }
  #running = 0
  /** Of the payloads of all calls that run. */
  #bytes = 0
  /** The call in which one runs. */
  #suspect: readonly Item[] | undefined
  /** It was its turn, and the bytes left were too few: it gets the next ones, and no other large one begins before it. */
  #next: Item | undefined
  #arrivals = 0
  #turn = 0

  /** `ordered`: a batch is of one stream or partition, whose lease it runs under. */
  constructor(concurrency: number, ordered = false) {
    this.#concurrency = concurrency
    this.#ordered = ordered
  }

  /** How many calls run. */
  get running(): number {
    return this.#running
  }

  get held(): number {
    return this.#items.size
  }

  /** Of the stream with this key. */
  heldOf(key: string): number {
    return this.#heldByKey.get(key) ?? 0
  }

  /** Of this handler, which other workers have left, or that was set aside; what waits for its next attempt is not counted. */
  leftOf(route: Route): number {
    return this.#left.get(route) ?? 0
  }

  /** Of these, those that do not run. A running one does not keep another from being probed. */
  queuedLeftOf(route: Route): number {
    const suspects = this.#suspects.filter((item) => item.route === route)
    return [...(this.#queues.get(route) ?? []), ...suspects].filter(({ taken }) => taken).length
  }

  /** Of one stream and handler: what waits for its next attempt, and where the handler is blocked, all that does not run. */
  waitingBy(route: Route, key: string): number {
    const { waiting, queued } = this.#parkedBy.get(route)?.get(key) ?? NONE_PARKED
    return waiting + (this.#blocked.has(route) ? queued : 0)
  }

  /** Items that could run if their handler were not blocked. */
  get blocked(): number {
    const suspects = this.#suspects.filter(({ route }) => this.#blocked.has(route)).length
    return [...this.#blocked].reduce((sum, route) => sum + this.queuedOf(route), suspects)
  }

  /** Items that could run, or could if their handler were not blocked, and were never tried. */
  freshOf(route: Route): number {
    return this.#queues.get(route)?.filter(({ tried }) => !tried).length ?? 0
  }

  block(route: Route): void {
    this.#blocked.add(route)
    if (this.#next?.route === route) this.#next = undefined
  }

  unblock(route: Route): void {
    this.#blocked.delete(route)
  }

  /** Items that could run, or could if their handler were not blocked. */
  queuedOf(route: Route): number {
    return this.#queues.get(route)?.length ?? 0
  }

  /** Calls that run. */
  callsOf(route: Route): number {
    return this.#calls.get(route) ?? 0
  }

  /** Nothing of this handler runs or could. */
  isIdle(route: Route): boolean {
    return this.callsOf(route) === 0 && this.queuedOf(route) === 0
  }

  count(state: State): number {
    return this.#counts[state]
  }

  /** Items that stand behind a handler which is at a cap of its own, and not blocked: they keep nothing else from running. */
  get crowded(): number {
    let crowded = 0
    for (const [route, queue] of this.#queues) {
      const { concurrency } = route
      if (concurrency < this.#concurrency && !this.#blocked.has(route))
        crowded += Math.max(0, queue.length - 2 * concurrency)
    }
    return crowded
  }

  get(key: string, id: string): Item | undefined {
    return this.#items.get(`${key} ${id}`)
  }

  items(): IterableIterator<Item> {
    return this.#items.values()
  }

  add(item: Item): void {
    item.place = this.#arrivals++ - (isLeft(item) ? LEFT_FIRST : 0)
    this.#items.set(`${item.key} ${item.id}`, item)
    this.#heldByKey.set(item.key, this.heldOf(item.key) + 1)
    this.#countParked(item, item.state, 1)
    this.#counts[item.state] += 1
    if (item.taken) this.#countLeft(item, 1)
    if (item.lane !== undefined) {
      const lane = this.#lanes.get(item.lane) ?? []
      this.#lanes.set(item.lane, lane)
      lane.push(item)
    }
    this.#enqueue(item)
  }

  /** The next call: one item, or the items of a batch; they run from here on. Undefined: nothing may begin. */
  next(): Item[] | undefined {
    if (this.#running >= this.#concurrency) return undefined
    if (this.#next?.state !== 'queued') this.#next = undefined
    const first = this.#next ?? this.#first()
    if (!first) return undefined
    if (this.#mayBegin(first) && this.#fits(first)) return this.#beginCallOf(first, false)
    this.#next = first
    const small = this.#first(true)
    return small && this.#beginCallOf(small, true)
  }

  #beginCallOf(first: Item, areSmall: boolean): Item[] {
    const call = this.#begin(isSuspect(first) ? [first] : this.#callOf(first, areSmall))
    if (isSuspect(first)) this.#suspect = call
    return call
  }

  #mayBegin(item: Item): boolean {
    return this.#isFree(item.route) && !(isSuspect(item) && this.#suspect)
  }

  #fits(item: Item): boolean {
    return this.#running === 0 || isSmall(item) || this.#bytes + item.size <= MAX_RUNNING_BYTES
  }

  /**
   * Of a handler that is blocked, a call of one item: one that was never tried, or any. Were it the oldest each time, one event that
   * always fails would keep the handler blocked.
   */
  probe(route: Route): Item[] | undefined {
    if (this.#running >= this.#concurrency || this.callsOf(route) >= route.concurrency) return undefined
    const queue = this.#queues.get(route) ?? []
    const suspects = this.#suspect ? [] : this.#suspects.filter((item) => item.route === route)
    const any = [...queue, ...suspects][Math.floor(Math.random() * (queue.length + suspects.length))]
    const large = this.#next?.state === 'queued' && this.#next.route === route ? this.#next : undefined
    const item = large ?? queue.find(({ tried }) => !tried) ?? any
    if (!item || (isSuspect(item) && this.#suspect)) return undefined
    if (!this.#fits(item)) {
      if (this.#next?.state !== 'queued') this.#next = item
      return undefined
    }
    const call = this.#begin([item])
    if (isSuspect(item)) this.#suspect = call
    return call
  }

  /** `areSmall`: of the small ones only. */
  #first(areSmall = false): Item | undefined {
    const may = (item: Item) => !areSmall || isSmall(item)
    const suspect = this.#suspects.find((item) => may(item) && this.#mayBegin(item))
    if (suspect) return suspect
    let next: Item | undefined
    for (const [route, queue] of this.#queues) {
      const first = queue.find(may)
      if (first && this.#isFree(route) && (!next || this.#comesBefore(first, next))) next = first
    }
    return next
  }

  /** Handlers share the places: the one with the fewest calls is next, and among equals the one that has waited longest. */
  #comesBefore(item: Item, other: Item): boolean {
    const more =
      this.callsOf(item.route) - this.callsOf(other.route) ||
      (this.#served.get(item.route) ?? 0) - (this.#served.get(other.route) ?? 0) ||
      item.place - other.place
    return more < 0
  }

  /** The call is over, and its place free. What becomes of each of its items is said besides. */
  end(items: readonly Item[]): void {
    const { route } = items[0] as Item
    this.#running -= 1
    this.#bytes -= bytesOf(items)
    this.#calls.set(route, (this.#calls.get(route) ?? 1) - 1)
    if (this.#suspect === items) this.#suspect = undefined
  }

  /** It is out of this worker's hands, done or not; the next of its lane may run. */
  remove(item: Item): void {
    if (item.state === 'gone') return
    this.#become(item, 'gone')
    this.#items.delete(`${item.key} ${item.id}`)
    const held = this.heldOf(item.key) - 1
    if (held > 0) this.#heldByKey.set(item.key, held)
    else this.#heldByKey.delete(item.key)
    const lane = item.lane === undefined ? undefined : this.#lanes.get(item.lane)
    if (!lane) return
    lane.splice(lane.indexOf(item), 1)
    if (lane.length === 0) this.#lanes.delete(item.lane as string)
    else if (lane[0]?.state === 'behind') this.#enqueue(lane[0])
  }

  /** It waits, and what is behind it in its lane with it; it holds no place. */
  wait(item: Item): void {
    if (item.state !== 'gone') this.#become(item, 'waiting')
  }

  /** It may run again: its wait is over, or it was not run after all. It comes before whatever arrived after it. */
  requeue(item: Item): void {
    if (item.state !== 'gone') this.#enqueue(item)
  }

  #isFree(route: Route): boolean {
    return !this.#blocked.has(route) && this.callsOf(route) < route.concurrency
  }

  #callOf(first: Item, areSmall: boolean): Item[] {
    const { route } = first
    // What has failed runs alone, or it would make fail a batch after the other.
    if (route.work.kind !== 'batch' || first.attempts > 0) return [first]
    const fit = ({ attempts, key }: Item) => attempts === 0 && (!this.#ordered || key === first.key)
    const others = (this.#queues.get(route) as Item[]).filter((item) => item !== first && fit(item))
    const batch = [first, ...others.filter((item) => !areSmall || isSmall(item))].slice(0, route.work.size)
    for (const { lane } of [...batch]) {
      for (const next of lane === undefined ? [] : (this.#lanes.get(lane)?.slice(1) ?? [])) {
        // One that is not behind waits, or was not run and is still to be said so.
        const fits = next.state === 'behind' && next.route === route && next.attempts === 0 && !isSuspect(next)
        if (!fits || batch.length >= route.work.size) break
        batch.push(next)
      }
    }
    // What small ones have together, with what runs, may be a little more than all that running calls may have.
    return fitting(batch, Math.max(areSmall ? MAX_SMALL_BYTES : 0, MAX_RUNNING_BYTES - this.#bytes))
  }

  #begin(items: Item[]): Item[] {
    const { route } = items[0] as Item
    this.#running += 1
    this.#bytes += bytesOf(items)
    this.#calls.set(route, this.callsOf(route) + 1)
    this.#served.set(route, ++this.#turn)
    for (const item of items) this.#become(item, 'running')
    return items
  }

  #enqueue(item: Item): void {
    const lane = item.lane === undefined ? undefined : this.#lanes.get(item.lane)
    const state = lane && lane[0] !== item ? 'behind' : 'queued'
    this.#become(item, state)
    if (state === 'behind') return
    const queue = this.#queueOf(item)
    let at = queue.length
    while (at > 0 && (queue[at - 1] as Item).place > item.place) at -= 1
    queue.splice(at, 0, item)
  }

  #countParked({ route, key }: Item, state: State, more: number): void {
    const by = this.#parkedBy.get(route) ?? new Map<string, Parked>()
    this.#parkedBy.set(route, by)
    const parked = by.get(key) ?? { waiting: 0, queued: 0 }
    by.set(key, parked)
    if (state === 'waiting') parked.waiting += more
    else if (state === 'queued' || state === 'behind') parked.queued += more
  }

  #countLeft({ route }: Item, more: number): void {
    if (more !== 0) this.#left.set(route, this.leftOf(route) + more)
  }

  #queueOf(item: Item): Item[] {
    if (isSuspect(item)) return this.#suspects
    const queue = this.#queues.get(item.route) ?? []
    this.#queues.set(item.route, queue)
    return queue
  }

  #become(item: Item, state: State): void {
    if (item.state === 'queued') {
      const queue = this.#queueOf(item)
      const at = queue.indexOf(item)
      if (at >= 0) queue.splice(at, 1)
    }
    if (item.taken) this.#countLeft(item, Number(isActive(state)) - Number(isActive(item.state)))
    this.#countParked(item, item.state, -1)
    this.#countParked(item, state, 1)
    if (item.state !== 'gone') this.#counts[item.state] -= 1
    if (state !== 'gone') this.#counts[state] += 1
    item.state = state
  }
}
