import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Wanted } from '../../redis/streams/group-replies.js'
import type { HandlerTimes } from '../delivery/handler-times.js'
import { MAX_HELD_ENTRIES } from '../delivery/limits.js'
import type { Worker } from '../delivery/worker.js'
import type { HandlerRegistry, RegisteredHandler } from '../handler-registry.js'
import type { ConsumerSettings } from '../options.js'

/** How far a read looks past events of a busy handler, to find work for the others of its stream; and what is queued of a quick one then. */
const MAX_QUEUED = 1_000

/**
 * Less than a second of quick work, because a worker reads again in time: enough while a reply is on its way, or the next batches. Half of
 * it is a page of small events: see read-size.ts.
 */
const MIN_AHEAD = 128
const BATCHES_AHEAD = 6

/** New entries that a stream may be read for. */
export interface Room {
  /** 0: none. */
  count: number
  /** Entries that one call of its handlers takes at most. */
  batch: number
  /** So many entries might be too many of one handler: the read ends behind the last entry that a handler lacks. */
  wanted?: Wanted
}

const NO_ROOM = { count: 0 }

/**
 * How much more a worker takes from Redis: of each handler what runs, and what it does in about one second by its measured time.
 * What one worker holds, the others cannot have. Before its first call has ended, a handler gets only what can run.
 *
 * A stream has the events of several handlers in one order. To reach those of an idle handler, a read may take more of a busy one; the
 * worker releases what is above the second, and claims it again, as any other worker does, when its handler has room.
 */
export class Capacity {
  readonly #worker: Worker
  readonly #times: HandlerTimes
  readonly #settings: ConsumerSettings
  readonly #routes: HandlerRegistry
  readonly #groups: () => readonly ConsumerGroup[]
  readonly #maxHeld: number

  constructor(
    worker: Worker,
    settings: ConsumerSettings,
    routes: HandlerRegistry,
    groups: () => readonly ConsumerGroup[],
  ) {
    this.#worker = worker
    this.#times = worker.times
    this.#settings = settings
    this.#routes = routes
    this.#groups = groups
    // One batch that runs, and one that is collected meanwhile.
    this.#maxHeld = Math.max(MAX_HELD_ENTRIES, 2 * Math.max(...routes.all.map(sizeOf)) + settings.concurrency)
  }

  /** Whether a handler lacks events, or `rooms` finds room for none. Quick, because it is asked whenever a call ends. */
  get isLacking(): boolean {
    return this.#routes.all.some((route) => this.#lacking(route) > 0)
  }

  /** New entries of each of these streams in one read, which share what may be held; at least one of each that has room. */
  rooms(streams: readonly string[]): Room[] {
    const keys = this.#keys()
    const rooms = streams.map((stream) => ({
      ...this.#room(stream, keys),
      batch: Math.max(1, ...this.#routes.of(stream).map(sizeOf)),
    }))
    const open = rooms.filter(({ count }) => count > 0).length
    const share = Math.max(1, Math.floor(this.#heldRoom / Math.max(1, open)))
    return rooms.map((room) => ({ ...room, count: Math.min(room.count, share) }))
  }

  /** New entries of a stream; none before a good part is free: a read costs as much for one entry as for many. */
  #room(stream: string, keysOf: ReadonlyMap<RegisteredHandler, number>): Omit<Room, 'batch'> {
    const { scheduler, payloadRoom } = this.#worker
    const routes = this.#routes.of(stream)
    const keys = routes.map((route) => keysOf.get(route) ?? 1)
    const lacks = routes.map((route, place) => Math.ceil(this.#lacking(route) / (keys[place] as number)))
    const count = lacks.reduce((sum, each) => sum + each, 0)
    if (count === 0) return NO_ROOM
    // The payloads of the others take up the bytes; for one that has nothing they are done without, see Payloads.
    const isIdle = routes.some((route, place) => (lacks[place] as number) > 0 && scheduler.isIdle(route))
    if (payloadRoom <= 0 && !isIdle) return NO_ROOM
    const isPast = routes.some((route, place) => lacks[place] === 0 && !scheduler.isIdle(route))
    if (isPast && routes.some((route) => this.#isFull(route))) return NO_ROOM
    const room = Math.max(0, this.#heldRoom)
    const held = routes.map((route, place) => this.#worker.isOpen(route) && lacks[place] === 0)
    if (held.includes(true)) {
      // What of one whose breaker is open comes first is read along, like what no handler takes: it is set aside.
      if (this.#worker.settingAside >= MAX_QUEUED) return NO_ROOM
      const places = Object.entries(this.#routes.placesOf(stream)).filter(([, place]) => !held[place])
      return { count: Math.min(MAX_QUEUED, room), wanted: { places: Object.fromEntries(places), lacks } }
    }
    // All of them may be of one handler. What is more of one whose breaker is open is set aside.
    const isTight = routes.some((route, place) => {
      const above = (this.#secondOf(route) - scheduler.queuedOf(route)) / (keys[place] as number)
      return routes.length > 1 && !this.#worker.isOpen(route) && above < count
    })
    if (!isTight) return { count: Math.min(count, room) }
    return { count: Math.min(MAX_QUEUED, room), wanted: { places: this.#routes.placesOf(stream), lacks } }
  }

  /** Entries of a stream that other workers have left, by handler, whatever is held of new ones. */
  readonly wantedLeft = (stream: string): Wanted => {
    const { scheduler } = this.#worker
    const routes = this.#routes.of(stream)
    const lacks = routes.map((route) => {
      // Most would wait for a probe, or would be released again; and new events would not begin, because left ones begin first.
      const isOneByOne = this.#worker.isOpen(route) || this.#worker.isRefused(route)
      if (isOneByOne) return scheduler.queuedLeftOf(route) === 0 ? 1 : 0
      const limit = callsOf(route, this.#settings) * sizeOf(route) + this.#ahead(route)
      const most = Math.min(limit, this.#settings.prefetch ?? limit)
      const room = Math.max(0, most - scheduler.leftOf(route))
      return room < most / 4 ? 0 : room
    })
    return { places: this.#routes.placesOf(stream), lacks }
  }

  /** The same of all handlers together. */
  readonly roomForLeft = (stream: string): number => {
    const rooms = this.wantedLeft(stream).lacks
    return Math.min(
      rooms.reduce((sum, room) => sum + room, 0),
      2 * this.#maxHeld - this.#worker.scheduler.held,
    )
  }

  /**
   * Releases what is queued of the handlers of a stream above what each of them does in about a second. Not of an ordered group: what is
   * released would stay with this worker, and what comes behind it would be done first.
   */
  readonly releaseSurplus = (stream: string): void => {
    const routes = this.#routes.of(stream)
    if (routes.length < 2 || this.#settings.ordered) return
    for (const route of routes) {
      if (!this.#worker.isOpen(route)) this.#worker.releaseQueued(route, this.#secondOf(route))
    }
  }

  /** Ordered: what is behind another of its ordering key does not keep the others from being read, up to a bound of each partition. */
  readonly roomOf = (key: string): number => {
    const { scheduler, unacknowledged } = this.#worker
    const soon = scheduler.count('queued') - scheduler.blocked + scheduler.count('running') + unacknowledged
    if (soon >= this.#orderedPrefetch) return 0
    const held = scheduler.heldOf(key)
    const half = this.#maxHeld / 2
    // Partitions whose first entries wait have no more than half of all that is held; of the other half each has its share.
    const share = Math.max(1, Math.floor(half / Math.max(1, this.#groups().length))) - held
    const free = Math.floor(half) - scheduler.held
    return Math.min(this.#settings.maxPending - held, Math.max(share, free))
  }

  /**
   * Milliseconds until a stream that has no room may have some: a read that waits for other streams is not to wait longer. At worst
   * half of what is held of it is done by then.
   */
  busyFor(stream: string): number {
    const { scheduler } = this.#worker
    const times = this.#routes.of(stream).map((route) => {
      if (this.#worker.isOpen(route)) return Number.POSITIVE_INFINITY
      const perSecond = this.#times.perSecond(route, callsOf(route, this.#settings))
      // Before its first call has ended: its events may be dead-lettered without a call, each within milliseconds.
      return perSecond === undefined ? 0 : (500 * scheduler.queuedOf(route)) / perSecond
    })
    return Math.min(...times)
  }

  /** What of a handler may be queued: what it does in about a second, and what can begin. */
  #secondOf(route: RegisteredHandler): number {
    const calls = callsOf(route, this.#settings)
    const second = this.#times.perSecond(route, calls) ?? calls * sizeOf(route)
    return Math.ceil(Math.max(second, this.#limit(route)))
  }

  /** What is more of a handler whose breaker is open is set aside, so that it holds up no others. */
  #isFull(route: RegisteredHandler): boolean {
    const queued = this.#worker.scheduler.queuedOf(route)
    return !this.#worker.isOpen(route) && queued >= Math.max(MAX_QUEUED, this.#ahead(route))
  }

  /** What a handler lacks to be busy for a second. */
  #lacking(route: RegisteredHandler): number {
    const { scheduler } = this.#worker
    const fresh = scheduler.freshOf(route)
    // One to try that has not failed: what has failed may always fail, and the handler may work again.
    // Calls that began before it opened, or a probe that hangs, do not count: they may never end.
    if (this.#worker.isOpen(route)) return this.#worker.isProbing(route) || fresh > 0 ? 0 : 1
    const limit = this.#limit(route)
    const lacking = limit - fresh
    if (lacking > 0 && (fresh < sizeOf(route) || lacking >= limit / 2)) return lacking
    return fresh === 0 && scheduler.triedOf(route) > 0 ? 1 : 0
  }

  /** What of a handler is to be queued: what can begin, and what is held ahead. */
  #limit(route: RegisteredHandler): number {
    const free = Math.max(0, callsOf(route, this.#settings) - this.#worker.scheduler.callsOf(route))
    return this.#runnable(route, free) + this.#ahead(route)
  }

  /** By handler: the number of streams and partitions from which it gets its events. */
  #keys(): Map<RegisteredHandler, number> {
    const keys = new Map<RegisteredHandler, number>()
    for (const { stream } of this.#groups()) {
      for (const route of this.#routes.of(stream)) keys.set(route, (keys.get(route) ?? 0) + 1)
    }
    return keys
  }

  /** Events that so many free calls take at once; a batch handler that was never measured gets no more than one batch. */
  #runnable(route: RegisteredHandler, free: number): number {
    const size = sizeOf(route)
    if (size === 1) return free
    return this.#times.perSecond(route, 1) === undefined ? 0 : Math.min(free, BATCHES_AHEAD) * size
  }

  /** Events that are held beside those that run. */
  #ahead(route: RegisteredHandler): number {
    const calls = callsOf(route, this.#settings)
    // Where `prefetch` says how much is held, the time does not count.
    const perSecond = this.#settings.prefetch ?? this.#times.perSecond(route, calls) ?? 0
    if (route.work.kind === 'long') return Math.min(Math.ceil(perSecond), Math.ceil(calls / 2))
    const size = sizeOf(route)
    if (size === 1) return Math.ceil(Math.min(perSecond, Math.max(2 * calls, MIN_AHEAD)))
    // At least the next batch, which is collected while one runs.
    return Math.ceil(Math.min(Math.max(perSecond, size), BATCHES_AHEAD * size))
  }

  /** New entries, of all streams. */
  get #heldRoom(): number {
    const { scheduler, unacknowledged } = this.#worker
    return Math.min(this.#prefetchRoom, this.#maxHeld - scheduler.held - unacknowledged)
  }

  /** What `prefetch` leaves, where it is set: of all that is held, except what waits or keeps no other from running. */
  get #prefetchRoom(): number {
    const { scheduler, unacknowledged } = this.#worker
    const { prefetch } = this.#settings
    if (prefetch === undefined) return Number.POSITIVE_INFINITY
    const idle = scheduler.count('waiting') + scheduler.blocked + Math.min(scheduler.saturated, MAX_QUEUED)
    const room = prefetch - scheduler.held - unacknowledged + idle
    return room < prefetch / 4 ? 0 : room
  }

  get #orderedPrefetch(): number {
    const { prefetch, concurrency } = this.#settings
    const isLong = this.#routes.all.some(({ work }) => work.kind === 'long')
    const most = Math.max(2 * concurrency, MIN_AHEAD, BATCHES_AHEAD * Math.max(...this.#routes.all.map(sizeOf)))
    return Math.min(prefetch ?? concurrency + (isLong ? Math.ceil(concurrency / 2) : most), this.#maxHeld)
  }
}

const sizeOf = ({ work }: RegisteredHandler): number => (work.kind === 'batch' ? work.size : 1)

const callsOf = (route: RegisteredHandler, { concurrency }: ConsumerSettings): number =>
  Math.min(route.concurrency, concurrency)
