import type { Group } from '../../redis/group.js'
import type { HandlerTimes } from '../delivery/handler-times.js'
import { MAX_HELD_ENTRIES } from '../limits.js'
import type { Settings } from '../options.js'
import type { Route, Routes } from '../routes.js'
import type { Worker } from '../worker.js'

/** How far is read past what waits for a busy handler, to find work for the others of its stream. */
const MAX_QUEUED = 1_000

/** Less than a second of quick work, because a worker reads again in time: enough while a reply is on its way, or the next batches. */
const MIN_AHEAD = 100
const BATCHES_AHEAD = 6

/** A read that looks past a busy handler for work of another. */
const LOOK_PAST = 100

/**
 * How much more a worker takes from Redis: of each handler what runs, and what it does in about one second by its measured time.
 * What one worker holds, the others cannot have. Before its first call has ended, a handler gets only what can run.
 */
export class Capacity {
  readonly #worker: Worker
  readonly #times: HandlerTimes
  readonly #settings: Settings
  readonly #routes: Routes
  readonly #groups: () => readonly Group[]
  readonly #maxHeld: number

  constructor(worker: Worker, settings: Settings, routes: Routes, groups: () => readonly Group[]) {
    this.#worker = worker
    this.#times = worker.times
    this.#settings = settings
    this.#routes = routes
    this.#groups = groups
    // One batch that runs, and one that is collected meanwhile.
    this.#maxHeld = Math.max(MAX_HELD_ENTRIES, 2 * Math.max(...routes.all.map(sizeOf)) + settings.concurrency)
  }

  /** New entries of each of these streams in one read, which share what may be held; at least one of each that has room. */
  rooms(streams: readonly string[]): number[] {
    const rooms = streams.map(this.room)
    const open = rooms.filter((room) => room > 0).length
    const share = Math.max(1, Math.floor(this.#heldRoom / Math.max(1, open)))
    return rooms.map((room) => Math.min(room, share))
  }

  /** New entries of a stream; 0 before a good part is free: a read costs as much for one entry as for many. */
  readonly room = (stream: string): number => {
    const { schedule, payloadRoom } = this.#worker
    const routes = this.#routes.of(stream)
    const lacking = routes.map((route) => Math.ceil(this.#lacking(route) / this.#keysOf(route)))
    const wanted = lacking.reduce((sum, count) => sum + count, 0)
    if (wanted === 0) return 0
    // The payloads of the others take up the bytes; for one that has nothing they are done without, see Payloads.
    const isIdle = routes.some((route, place) => (lacking[place] as number) > 0 && schedule.isIdle(route))
    if (payloadRoom <= 0 && !isIdle) return 0
    const isPast = routes.some((route, place) => lacking[place] === 0 && !schedule.isIdle(route))
    if (isPast && routes.some((route) => this.#isFull(route))) return 0
    return Math.max(0, Math.min(isPast ? Math.max(wanted, LOOK_PAST) : wanted, this.#heldRoom))
  }

  /** Entries of a stream that other workers have left, whatever is held of new ones. */
  readonly roomForLeft = (stream: string): number => {
    const { schedule } = this.#worker
    const rooms = this.#routes.of(stream).map((route) => {
      if (this.#worker.isOpen(route)) return schedule.queuedLeftOf(route) === 0 ? 1 : 0
      const limit = callsOf(route, this.#settings) * sizeOf(route) + this.#ahead(route)
      return Math.max(0, Math.min(limit, this.#settings.prefetch ?? limit) - schedule.leftOf(route))
    })
    return Math.min(
      rooms.reduce((sum, room) => sum + room, 0),
      2 * this.#maxHeld - schedule.held,
    )
  }

  /** Ordered: what is behind another of its lane does not keep the others from being read, up to a bound of each partition. */
  readonly roomOf = (key: string): number => {
    const { schedule, unacknowledged } = this.#worker
    const soon = schedule.count('queued') - schedule.blocked + schedule.count('running') + unacknowledged
    if (soon >= this.#orderedPrefetch) return 0
    // Of many partitions whose first entries wait, each may still have one.
    const least = schedule.heldOf(key) === 0 ? 1 : 0
    return Math.min(this.#settings.maxPending - schedule.heldOf(key), Math.max(least, this.#maxHeld - schedule.held))
  }

  /**
   * Milliseconds until a stream that has no room may have some: a read that waits for other streams is not to wait longer. At worst
   * half of what is held of it is done by then.
   */
  busyFor(stream: string): number {
    const { schedule } = this.#worker
    const times = this.#routes.of(stream).map((route) => {
      const perSecond = this.#times.perSecond(route, callsOf(route, this.#settings))
      const isStuck = perSecond === undefined || this.#worker.isOpen(route)
      return isStuck ? Number.POSITIVE_INFINITY : (500 * schedule.queuedOf(route)) / perSecond
    })
    return Math.min(...times)
  }

  /** What is more of a handler whose breaker is open is set aside, so that it holds up no others. */
  #isFull(route: Route): boolean {
    const queued = this.#worker.schedule.queuedOf(route)
    return !this.#worker.isOpen(route) && queued >= Math.max(MAX_QUEUED, this.#ahead(route))
  }

  /** What a handler lacks to be busy for a second. */
  #lacking(route: Route): number {
    const { schedule } = this.#worker
    const queued = schedule.queuedOf(route)
    // One to try that has not failed: what has failed may always fail, and the handler may work again.
    // Calls that began before it opened, or a probe that hangs, do not count: they may never end.
    if (this.#worker.isOpen(route)) return this.#worker.isProbing(route) || schedule.freshOf(route) > 0 ? 0 : 1
    const free = Math.max(0, callsOf(route, this.#settings) - schedule.callsOf(route))
    const limit = this.#runnable(route, free) + this.#ahead(route)
    const lacking = limit - queued
    return queued >= sizeOf(route) && lacking < limit / 4 ? 0 : Math.max(0, lacking)
  }

  /** Streams and partitions from which a handler gets its events. */
  #keysOf(route: Route): number {
    return Math.max(1, this.#groups().filter(({ stream }) => this.#routes.of(stream).includes(route)).length)
  }

  /** Events that so many free calls take at once; a batch handler that was never measured gets no more than one batch. */
  #runnable(route: Route, free: number): number {
    const size = sizeOf(route)
    if (size === 1) return free
    return this.#times.perSecond(route, 1) === undefined ? 0 : Math.min(free, BATCHES_AHEAD) * size
  }

  /** Events that are held beside those that run. */
  #ahead(route: Route): number {
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
    const { schedule, unacknowledged } = this.#worker
    return Math.min(this.#prefetchRoom, this.#maxHeld - schedule.held - unacknowledged)
  }

  /** What `prefetch` leaves, where it is set: of all that is held, except what waits or keeps no other from running. */
  get #prefetchRoom(): number {
    const { schedule, unacknowledged } = this.#worker
    const { prefetch } = this.#settings
    if (prefetch === undefined) return Number.POSITIVE_INFINITY
    const idle = schedule.count('waiting') + schedule.blocked + Math.min(schedule.crowded, MAX_QUEUED)
    const room = prefetch - schedule.held - unacknowledged + idle
    return room < prefetch / 4 ? 0 : room
  }

  get #orderedPrefetch(): number {
    const { prefetch, concurrency } = this.#settings
    const isLong = this.#routes.all.some(({ work }) => work.kind === 'long')
    const most = Math.max(2 * concurrency, MIN_AHEAD, BATCHES_AHEAD * Math.max(...this.#routes.all.map(sizeOf)))
    return Math.min(prefetch ?? concurrency + (isLong ? Math.ceil(concurrency / 2) : most), this.#maxHeld)
  }
}

const sizeOf = ({ work }: Route): number => (work.kind === 'batch' ? work.size : 1)

const callsOf = (route: Route, { concurrency }: Settings): number => Math.min(route.concurrency, concurrency)
