import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { ClaimedEntry, StreamEntry } from '../../redis/streams/group-replies.js'
import { Changes } from '../changes.js'
import type { HandlerRegistry, RegisteredHandler } from '../handler-registry.js'
import type { ExecutionContext } from '../inbox/execute.js'
import type { FencingToken } from '../inbox/inbox.js'
import type { ConsumerMetrics } from '../metrics.js'
import type { ConsumerLogger, ConsumerSettings } from '../options.js'
import type { ReconnectingClient } from '../redis/reconnecting-client.js'
import { LAST_WORDS, withTimeout } from '../with-timeout.js'
import { Breakers } from './breakers.js'
import { DatabaseBreaker } from './database-breaker.js'
import { EntryMover } from './entry-mover.js'
import { Executor } from './executor.js'
import { FailureHandler } from './failure-handler.js'
import { HandlerTimes } from './handler-times.js'
import { HeldDeliveries } from './held-deliveries.js'
import { Intake } from './intake.js'
import { Payloads } from './payloads.js'
import { Preparer } from './preparer.js'
import { Scheduler } from './scheduler.js'
import { Settler } from './settler.js'

export interface WorkerParts {
  settings: ConsumerSettings
  routes: HandlerRegistry
  execution: ExecutionContext
  link: ReconnectingClient
  metrics: ConsumerMetrics
  log: ConsumerLogger
  /** How an ordered worker holds the stream of a key; undefined where it does not, or not any more. */
  leaseOf(key: string): FencingToken | undefined
  /** Another worker holds the stream of this key. */
  onFenced(key: string): void
  /** Ordered: an entry of this stream is not pending here any more, so all that is pending must be taken again, in order. */
  onGap(key: string): void
  /** Entries of one stream and handler that are held while they wait. */
  maxWaiting(): number
}

/** How long handlers get to notice that they are aborted, in milliseconds. */
const ABORT_GRACE = 1_000

/** Runs the entries that it is given, each to its end: acknowledged, dead-lettered, or released. */
export class Worker {
  readonly scheduler: Scheduler
  readonly times = new HandlerTimes()
  readonly #parts: WorkerParts
  readonly #settler: Settler
  readonly #payloads: Payloads
  readonly #breakers: Breakers
  readonly #databaseBreaker: DatabaseBreaker
  readonly #held: HeldDeliveries
  readonly #mover: EntryMover
  readonly #failures: FailureHandler
  readonly #executor: Executor
  readonly #intake: Intake
  readonly #changes = new Changes()
  #paused = false
  /** No call begins any more. */
  #stopping = false

  constructor(parts: WorkerParts) {
    const { settings, link, metrics, log } = parts
    const { ordered } = settings
    this.#parts = parts
    const onChange = () => this.wake()
    const scheduler = new Scheduler(settings.concurrency, ordered)
    const settler = new Settler(link, metrics, log, onChange)
    const payloads = new Payloads(link, (group, id) => this.#intake.trimmed(group, id))
    const breakers = new Breakers({ ...parts, scheduler, payloads, onProbe: onChange })
    const databaseBreaker = new DatabaseBreaker(log, onChange)
    const held = new HeldDeliveries({ ...parts, scheduler, payloads, breakers, settler, onChange })
    const mover = new EntryMover({ ...settings, breakers, held, payloads, settler, onChange })
    const shared = { ...parts, ordered, scheduler, payloads, breakers, databaseBreaker, settler, held, mover }
    const failures = new FailureHandler(shared)
    const preparer = new Preparer({ ...shared, failures })
    const mayBegin = () => this.#mayBegin
    this.#executor = new Executor({ ...shared, failures, preparer, times: this.times, mayBegin, onChange })
    this.#intake = new Intake(shared)
    this.scheduler = scheduler
    this.#settler = settler
    this.#payloads = payloads
    this.#breakers = breakers
    this.#databaseBreaker = databaseBreaker
    this.#held = held
    this.#mover = mover
    this.#failures = failures
  }

  /** How many entries are done, and Redis does not know it yet. */
  get unacknowledged(): number {
    return this.#settler.unacknowledged
  }

  /** How many are on their way to the waiting stream. */
  get settingAside(): number {
    return this.#settler.settingAside
  }

  /** Bytes that more payloads may have. */
  get payloadRoom(): number {
    return this.#payloads.room
  }

  get paused(): boolean {
    return this.#paused
  }

  set paused(paused: boolean) {
    this.#paused = paused
    this.wake()
  }

  /** The age of the oldest call that runs. */
  get oldestRunningSeconds(): number {
    return this.#executor.oldestRunningSeconds
  }

  /** Whether nothing can be done just now, so that nothing more should be read. */
  get blocked(): boolean {
    return this.#paused || this.#databaseBreaker.isOpen
  }

  get #mayBegin(): boolean {
    return !this.#stopping && !this.blocked
  }

  /** Whether the circuit breaker of this handler is open. */
  isOpen(route: RegisteredHandler): boolean {
    return this.#breakers.isOpen(route)
  }

  /** Whether Redis refuses more dead letters of this handler than are held. */
  isRefused(route: RegisteredHandler): boolean {
    return this.#mover.isRefused(route)
  }

  /** Whether an event is tried, and the next one is not to begin before it ends. */
  isProbing(route: RegisteredHandler): boolean {
    return this.#breakers.isProbing(route)
  }

  /** Whether a circuit breaker is open, by type. */
  get breakers(): { type: string; open: boolean }[] {
    return this.#breakers.states
  }

  /** Resolves at the next change of what runs, waits or is held, or after so many milliseconds. */
  changed(timeout?: number): Promise<void> {
    return this.#changes.next(timeout)
  }

  /** Resolves at the first such change after which this is true, or after so many milliseconds. */
  changedUntil(isOver: () => boolean, timeout?: number): Promise<void> {
    return this.#changes.until(isOver, timeout)
  }

  /** Begins what can be begun, or while stopping releases what does not run; then tells those who wait for a change. */
  wake(): void {
    if (this.#stopping) void this.release()
    // First, or a backlog of the other handlers takes each place that becomes free.
    if (this.#mayBegin) for (const call of this.#breakers.probes()) void this.#executor.run(call)
    while (this.#mayBegin) {
      const call = this.scheduler.next()
      if (!call) break
      void this.#executor.run(call)
    }
    this.#changes.tell()
  }

  /** Entries that were delivered to this consumer for the first time. */
  receive(group: ConsumerGroup, entries: readonly StreamEntry[]): void {
    this.#intake.receive(group, entries)
    this.wake()
  }

  /** Entries that were pending, with another consumer or with this one. */
  adopt(group: ConsumerGroup, entries: readonly ClaimedEntry[]): void {
    this.#intake.adopt(group, entries)
    this.wake()
  }

  /** All of a stream that Redis takes for pending here, and no other worker should take. */
  idsOf(group: ConsumerGroup): string[] {
    const ids = this.#settler.doneOf(group)
    for (const { key, id } of this.scheduler.deliveries()) if (key === group.key) ids.push(id)
    return ids
  }

  /** Whether this is one of those. */
  has(group: ConsumerGroup, id: string): boolean {
    return this.#intake.has(group, id)
  }

  /** Another consumer has these now. */
  lose(key: string, ids: readonly string[]): void {
    for (const id of ids) {
      const delivery = this.scheduler.get(key, id)
      if (delivery) this.#held.lose(delivery)
    }
    this.wake()
  }

  /** These are in the stream no more. */
  deleted(group: ConsumerGroup, ids: readonly string[]): void {
    for (const id of ids) this.#intake.deleted(group, id)
    this.wake()
  }

  /** Another worker holds all of this stream now. */
  loseAll(key: string): void {
    this.#held.loseAll(key)
    this.wake()
  }

  /** Releases what does not run, of one stream or of all; resolves when other workers may take it. */
  release(key?: string): Promise<void> {
    return this.#held.release(
      (delivery) => (key === undefined || delivery.group.stream === key) && delivery.state !== 'running',
    )
  }

  /** Releases what is queued for a handler behind the first so many, but not what has failed here: that waits behind all others. */
  releaseQueued(route: RegisteredHandler, kept: number): void {
    const behind = this.scheduler.queuedBehind(route, kept)
    const surplus = new Set(behind.filter(({ taken, tried }) => taken || !tried))
    if (surplus.size > 0) void this.#held.release((delivery) => surplus.has(delivery))
  }

  /**
   * Releases what does not run, begins nothing more, and resolves when what runs has finished. When the deadline, in
   * milliseconds, is over, it is aborted, and a handler that ignores its signal is waited for no longer.
   */
  async finish(timeout: number): Promise<void> {
    this.#stopping = true
    this.#held.stopTimers()
    this.#breakers.stop()
    this.wake()
    const finished = async () => {
      while (this.scheduler.running > 0) await this.changed()
    }
    await withTimeout(finished(), timeout)
    this.#failures.abort()
    if (this.scheduler.running > 0) {
      this.#parts.log.warn({ running: this.scheduler.running }, 'handlers still run at the deadline of the stop')
      this.#executor.abort(new Error('The consumer is stopping'))
      await withTimeout(finished(), ABORT_GRACE)
    }
    await withTimeout(this.#settler.acknowledged(), LAST_WORDS)
  }

  /** After `finish`, and once nothing more is read: releases all that is left. */
  async close(): Promise<void> {
    await withTimeout(
      this.#held.release(() => true),
      LAST_WORDS,
    )
    this.#databaseBreaker.stop()
    this.wake()
  }
}
