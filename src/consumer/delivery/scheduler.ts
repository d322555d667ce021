import type { RegisteredHandler } from '../handler-registry.js'
import { batchOf, isSmall } from './batch.js'
import type { Call, Delivery, DeliveryState } from './delivery.js'
import { DeliveryIndex } from './delivery-index.js'
import { HeldCounts } from './held-counts.js'
import { OrderingKeys } from './ordering-keys.js'
import { isSuspect, RunQueues } from './run-queues.js'
import { RunningBytes } from './running-bytes.js'

/** Other workers have left it, or it was set aside: it runs before what is new. With an ordering key it is as old as its place among those of that key. */
const isLeft = ({ taken, orderingKey }: Delivery): boolean => taken && orderingKey === undefined

/** More than any worker ever receives. */
const LEFT_FIRST = 2 ** 50

/**
 * What runs next, and how much is held. Pure: no clock, no I/O.
 *
 * Only the first delivery of an ordering key is queued, and it stays the first until it is gone; but a batch may take along those right
 * behind it. The caps of the consumer and of each route count calls: a batch is one.
 */
export class Scheduler {
  readonly #concurrency: number
  readonly #ordered: boolean
  readonly #deliveries = new DeliveryIndex()
  readonly #counts = new HeldCounts()
  readonly #queues = new RunQueues()
  readonly #orderingKeys = new OrderingKeys()
  /** Handlers of which nothing begins but a probe. */
  readonly #blocked = new Set<RegisteredHandler>()
  /** By handler: in which turn its last call began. */
  readonly #served = new Map<RegisteredHandler, number>()
  readonly #calls = new Map<RegisteredHandler, number>()
  #running = 0
  readonly #bytes = new RunningBytes()
  /** The call in which one runs. */
  #suspect: Call | undefined
  /** It was its turn, and the bytes left were too few: it gets the next ones, and no other large one begins before it. */
  #next: Delivery | undefined
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
    return this.#deliveries.size
  }

  /** Of the stream with this key. */
  heldOf(key: string): number {
    return this.#deliveries.sizeOf(key)
  }

  /** Of this handler, which other workers have left, or that was set aside; what waits for its next attempt is not counted. */
  leftOf(route: RegisteredHandler): number {
    return this.#counts.leftOf(route)
  }

  /** Of these, those that do not run. A running one does not keep another from being probed. */
  queuedLeftOf(route: RegisteredHandler): number {
    return [...this.#queues.of(route), ...this.#queues.suspectsOf(route)].filter(({ taken }) => taken).length
  }

  /** Of one stream and handler: what waits for its next attempt, and where the handler is blocked, all that does not run. */
  waitingBy(route: RegisteredHandler, key: string): number {
    const { waiting, queued } = this.#counts.parkedOf(route, key)
    return waiting + (this.#blocked.has(route) ? queued : 0)
  }

  /** Items that could run if their handler were not blocked. */
  get blocked(): number {
    const suspects = this.#queues.suspects.filter(({ route }) => this.#blocked.has(route)).length
    return [...this.#blocked].reduce((sum, route) => sum + this.queuedOf(route), suspects)
  }

  /** Items that could run, or could if their handler were not blocked, and were never tried. */
  freshOf(route: RegisteredHandler): number {
    return this.queuedOf(route) - this.triedOf(route)
  }

  /** Items that could run, or could if their handler were not blocked, and were tried before. */
  triedOf(route: RegisteredHandler): number {
    return this.#queues.triedOf(route)
  }

  block(route: RegisteredHandler): void {
    this.#blocked.add(route)
    if (this.#next?.route === route) this.#next = undefined
  }

  unblock(route: RegisteredHandler): void {
    this.#blocked.delete(route)
  }

  /** Items that could run, or could if their handler were not blocked. */
  queuedOf(route: RegisteredHandler): number {
    return this.#queues.of(route).length
  }

  /** Of those, what comes after the first so many. */
  queuedBehind(route: RegisteredHandler, first: number): Delivery[] {
    return this.#queues.of(route).slice(first)
  }

  /** Calls that run. */
  callsOf(route: RegisteredHandler): number {
    return this.#calls.get(route) ?? 0
  }

  /** Nothing of this handler runs or could. */
  isIdle(route: RegisteredHandler): boolean {
    return this.callsOf(route) === 0 && this.queuedOf(route) === 0
  }

  count(state: DeliveryState): number {
    return this.#counts.of(state)
  }

  /** Items that stand behind a handler which is at a cap of its own, and not blocked: they keep nothing else from running. */
  get saturated(): number {
    let saturated = 0
    for (const [route, queue] of this.#queues.entries()) {
      const { concurrency } = route
      if (concurrency < this.#concurrency && !this.#blocked.has(route))
        saturated += Math.max(0, queue.length - 2 * concurrency)
    }
    return saturated
  }

  get(key: string, id: string): Delivery | undefined {
    return this.#deliveries.get(key, id)
  }

  /** Of each stream in the order of arrival. */
  deliveries(): Generator<Delivery, void> {
    return this.#deliveries.values()
  }

  add(delivery: Delivery): void {
    delivery.place = this.#arrivals++ - (isLeft(delivery) ? LEFT_FIRST : 0)
    this.#deliveries.add(delivery)
    this.#orderingKeys.add(delivery)
    delivery.state = this.#orderingKeys.isFirst(delivery) ? 'queued' : 'behind'
    this.#counts.add(delivery)
    if (delivery.state === 'queued') this.#queues.insert(delivery)
  }

  /** The next call: one delivery, or the deliveries of a batch; they run from here on. Undefined: nothing may begin. */
  next(): Call | undefined {
    if (this.#running >= this.#concurrency) return undefined
    if (this.#next?.state !== 'queued') this.#next = undefined
    const first = this.#next ?? this.#first()
    if (!first) return undefined
    if (this.#mayBegin(first) && this.#fits(first)) return this.#beginCallOf(first, false)
    this.#next = first
    const small = this.#first(true)
    return small && this.#fits(small) ? this.#beginCallOf(small, true) : undefined
  }

  #beginCallOf(first: Delivery, areSmall: boolean): Call {
    const call = this.#begin(isSuspect(first) ? [first] : this.#callOf(first, areSmall))
    if (isSuspect(first)) this.#suspect = call
    return call
  }

  #mayBegin(delivery: Delivery): boolean {
    return this.#isFree(delivery.route) && !(isSuspect(delivery) && this.#suspect)
  }

  #fits(delivery: Delivery): boolean {
    return this.#running === 0 || this.#bytes.fits(delivery)
  }

  /**
   * Of a handler that is blocked, a call of one delivery: one that was never tried, or any. Were it the oldest each time, one event that
   * always fails would keep the handler blocked.
   */
  probe(route: RegisteredHandler): Call | undefined {
    if (this.#running >= this.#concurrency || this.callsOf(route) >= route.concurrency) return undefined
    const queue = this.#queues.of(route)
    const suspects = this.#suspect ? [] : this.#queues.suspectsOf(route)
    const any = [...queue, ...suspects][Math.floor(Math.random() * (queue.length + suspects.length))]
    const large = this.#next?.state === 'queued' && this.#next.route === route ? this.#next : undefined
    const delivery = large ?? queue.find(({ tried }) => !tried) ?? any
    if (!delivery || (isSuspect(delivery) && this.#suspect)) return undefined
    if (!this.#fits(delivery)) {
      if (this.#next?.state !== 'queued') this.#next = delivery
      return undefined
    }
    const call = this.#begin([delivery])
    if (isSuspect(delivery)) this.#suspect = call
    return call
  }

  /** `areSmall`: of the small ones only. */
  #first(areSmall = false): Delivery | undefined {
    const { suspects } = this.#queues
    const may = (delivery: Delivery) => (!areSmall || isSmall(delivery)) && this.#mayBegin(delivery)
    const suspect = suspects.length > 0 ? suspects.find(may) : undefined
    if (suspect) return suspect
    let next: Delivery | undefined
    for (const [route, queue] of this.#queues.entries()) {
      const first = areSmall ? queue.find(isSmall) : queue[0]
      if (first && this.#isFree(route) && (!next || this.#comesBefore(first, next))) next = first
    }
    return next
  }

  /** Handlers share the places: the one with the fewest calls is next, and among equals the one that has waited longest. */
  #comesBefore(delivery: Delivery, other: Delivery): boolean {
    const more =
      this.callsOf(delivery.route) - this.callsOf(other.route) ||
      (this.#served.get(delivery.route) ?? 0) - (this.#served.get(other.route) ?? 0) ||
      delivery.place - other.place
    return more < 0
  }

  /** The call is over, and its place free. What becomes of each of its deliveries is said besides. */
  end(deliveries: Call): void {
    const [{ route }] = deliveries
    this.#running -= 1
    this.#bytes.end(deliveries)
    this.#calls.set(route, (this.#calls.get(route) ?? 1) - 1)
    if (this.#suspect === deliveries) this.#suspect = undefined
  }

  /** It is out of this worker's hands, done or not; the next of its ordering key may run. */
  remove(delivery: Delivery): void {
    if (delivery.state === 'gone') return
    this.#become(delivery, 'gone')
    this.#deliveries.remove(delivery)
    const next = this.#orderingKeys.remove(delivery)
    if (next?.state === 'behind') this.#enqueue(next)
  }

  /** It waits, and what is behind it in its ordering key with it; it holds no place. */
  wait(delivery: Delivery): void {
    if (delivery.state !== 'gone') this.#become(delivery, 'waiting')
  }

  /**
   * It may run again: its wait is over, or it was not run after all. What has failed comes after all that is queued, or events that
   * always fail would keep the others from their first attempt; with an ordering key it keeps its place, as does what has not failed.
   */
  requeue(delivery: Delivery): void {
    if (delivery.state === 'gone') return
    if (delivery.attempts > 0 && delivery.orderingKey === undefined) delivery.place = this.#arrivals++
    this.#enqueue(delivery)
  }

  #isFree(route: RegisteredHandler): boolean {
    return !this.#blocked.has(route) && this.callsOf(route) < route.concurrency
  }

  #callOf(first: Delivery, areSmall: boolean): Call {
    const { route } = first
    // What has failed runs alone, or it would make fail a batch after the other.
    if (route.work.kind !== 'batch' || first.attempts > 0) return [first]
    return batchOf(first, {
      ...{ size: route.work.size, queue: this.#queues.of(route), orderingKeys: this.#orderingKeys },
      ...{ ordered: this.#ordered, areSmall, runningBytes: this.#bytes.large },
    })
  }

  #begin(deliveries: Call): Call {
    const [{ route }] = deliveries
    this.#running += 1
    this.#bytes.begin(deliveries)
    this.#calls.set(route, this.callsOf(route) + 1)
    this.#served.set(route, ++this.#turn)
    for (const delivery of deliveries) this.#become(delivery, 'running')
    return deliveries
  }

  #enqueue(delivery: Delivery): void {
    const isFirst = this.#orderingKeys.isFirst(delivery)
    this.#become(delivery, isFirst ? 'queued' : 'behind')
    if (isFirst) this.#queues.insert(delivery)
  }

  #become(delivery: Delivery, state: DeliveryState): void {
    if (delivery.state === 'queued') this.#queues.remove(delivery)
    this.#counts.change(delivery, state)
    delivery.state = state
  }
}
