import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describeIssues } from '../event/error.js'
import { type Entry, type Group, NACKED, type Taken } from '../redis/group.js'
import { Changes } from './changes.js'
import { TransactionFailure } from './database.js'
import { Breakers } from './delivery/breakers.js'
import { HandlerTimes } from './delivery/handler-times.js'
import { type Missing, Payloads } from './delivery/payloads.js'
import { errorOf } from './delivery/thrown.js'
import { bornAt, MalformedError, payloadOf } from './event.js'
import { type Fault, faultOf, type Stage } from './fault.js'
import { Gate } from './gate.js'
import { isCommitted } from './inbox/outcome.js'
import type { Epoch } from './inbox.js'
import { type Item, itemOf } from './item.js'
import { type Link, StoppedError } from './link.js'
import type { ConsumerMetrics } from './metrics.js'
import type { ConsumerLogger, Settings } from './options.js'
import { inboxKeyOf, perform, type Setting } from './perform.js'
import { DeadLetter, type Decision, decide, exponential, Retry, textOf } from './retry.js'
import { backoffOf, type Found, type Route, type Routes } from './routes.js'
import { Schedule } from './schedule.js'
import { Settlement, told, unlessOver } from './settlement.js'
import { Stop } from './stop.js'
import { Timers } from './timers.js'
import { LAST_WORDS, within } from './within.js'

export interface WorkerParts {
  settings: Settings
  routes: Routes
  setting: Setting
  link: Link
  metrics: ConsumerMetrics
  log: ConsumerLogger
  /** How an ordered worker holds the stream of a key; undefined where it does not, or not any more. */
  leaseOf(key: string): Epoch | undefined
  /** Another worker holds the stream of this key. */
  onFenced(key: string): void
  /** Ordered: an entry of this stream is not pending here any more, so what is pending must be taken again, in order. */
  onGap(key: string): void
  /** Entries of one stream and handler that are held while they wait. */
  maxWaiting(): number
}

/** What waits longer than this, in milliseconds, is set aside instead of being held. Not in order, where it holds up its subject. */
const SET_ASIDE_AFTER = 600_000

/** How long at least an event is set aside because its handler fails, in milliseconds. */
const MIN_SET_ASIDE_MS = 60_000

/** Deliveries without an outcome, after which an event is taken to kill its workers. */
const MOST_DELIVERIES = 5

/**
 * Conflicts and lost sessions of one event, after which they count as an attempt: a lock that is never free, or a handler that
 * ends its own session, must come to an end.
 */
const MAX_INTERRUPTIONS = 10

/** Between the attempts of a transaction that met another one. */
const conflictPause = exponential(20, 5_000)

const DEFAULT_BACKOFF = backoffOf('backoff', undefined)

/** How often an event of a newer version is offered to the other workers, in milliseconds. */
const OFFER_EVERY = 5_000

/** How long handlers get to notice that they are aborted, in milliseconds. */
const ABORT_GRACE = 1_000

/** Runs the entries that it is given, each to its end: done, dead-lettered, or let go of. */
export class Worker {
  readonly schedule: Schedule
  readonly #parts: WorkerParts
  readonly #settlement: Settlement
  readonly #payloads: Payloads
  readonly #breakers: Breakers
  readonly #timers = new Timers<Item>()
  readonly #gate: Gate
  /** When each call began that runs, the oldest first. */
  readonly #began = new Map<readonly Item[], number>()
  #paused = false
  /** Nothing is begun any more. */
  #stopping = false
  /** The deadline of the stop is over: what fails now was made to. */
  #aborted = false
  /** Resolves when Redis has confirmed all that was released. */
  #releasing: Promise<unknown> = Promise.resolve()
  readonly #changes = new Changes()

  constructor(parts: WorkerParts) {
    this.#parts = parts
    this.schedule = new Schedule(parts.settings.concurrency, parts.settings.ordered)
    this.#settlement = new Settlement(parts.link, parts.metrics, parts.log, () => this.wake())
    this.#payloads = new Payloads(parts.link, (group, id) => this.#trimmed(group, id))
    this.#breakers = new Breakers({
      ...{ routes: parts.routes, log: parts.log, onProbe: () => this.wake() },
      onChange: (route, open) => this.#block(route, open),
    })
    this.#gate = new Gate(parts.log, () => this.wake())
  }

  /** How many entries are done, and Redis does not know it yet. */
  get unacknowledged(): number {
    return this.#settlement.unacknowledged
  }

  readonly times = new HandlerTimes()

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

  /** Of the calls that run. */
  get oldestRunningSeconds(): number {
    const [began] = this.#began.values()
    return began === undefined ? 0 : (performance.now() - began) / 1000
  }

  /** Whether nothing can be done just now, so that nothing more should be read. */
  get blocked(): boolean {
    return this.#paused || this.#gate.closed
  }

  /** Resolves at the next change of what runs, waits or is held, or after so many milliseconds. */
  changed(timeout?: number): Promise<void> {
    return this.#changes.next(timeout)
  }

  /** Begins what can be begun, or while stopping releases what does not run; then tells those who wait for a change. */
  wake(): void {
    if (this.#stopping) void this.release()
    // First, or a backlog of the other handlers takes each place that becomes free.
    if (!this.#stopping && !this.blocked) this.#probe()
    while (!this.#stopping && !this.blocked) {
      const items = this.schedule.next()
      if (!items) break
      void this.#run(items)
    }
    this.#changes.tell()
  }

  /** Tries one event of each handler whose breaker is open, when its pause is over and no other is being tried. */
  #probe(): void {
    for (const route of this.#breakers.toProbe()) {
      const items = this.schedule.probe(route)
      if (!items) continue
      this.#breakers.of(route)?.begin(items[0] as Item)
      void this.#run(items)
    }
  }

  /** What is queued for a handler that fails gives up its payload first. */
  #block(route: Route, open: boolean): void {
    if (open) this.schedule.block(route)
    else this.schedule.unblock(route)
    for (const item of this.schedule.items()) {
      if (item.route !== route || (item.state !== 'queued' && item.state !== 'behind')) continue
      if (open) this.#payloads.spare(item)
      else this.#payloads.claim(item)
    }
  }

  isOpen(route: Route): boolean {
    return this.#breakers.isOpen(route)
  }

  /** Whether an event is tried, and the next one is not to begin before it ends. */
  isProbing(route: Route): boolean {
    return this.#breakers.of(route)?.isProbing === true
  }

  /** Whether a circuit breaker is open, by type; the versions of a type may have several. */
  get breakers(): { type: string; open: boolean }[] {
    const open = new Map<string, boolean>()
    for (const route of this.#parts.routes.all) {
      for (const type of route.types) open.set(type, open.get(type) === true || this.isOpen(route))
    }
    return [...open].map(([type, open]) => ({ type, open }))
  }

  /** Entries that were delivered to this consumer for the first time; the bytes of each. */
  receive(group: Group, entries: readonly Entry[]): number[] {
    const { routes, settings } = this.#parts
    const sizes: number[] = []
    for (const entry of entries) {
      // Redis was put back to an earlier state: what it delivers again may still be here.
      if (this.#has(group, entry.id)) continue
      const item = itemOf(group, entry, routes, settings.ordered)
      sizes.push(item.size)
      this.#add(item)
    }
    this.wake()
    return sizes
  }

  /** Entries that were pending, with another consumer or with this one. */
  adopt(group: Group, entries: readonly Taken[]): void {
    const { routes, settings } = this.#parts
    for (const { id, fields, size, deliveries, attempts } of entries) {
      if (this.#has(group, id)) {
        if (!fields) this.#lostPayload(group, id)
      } else if (fields) {
        this.#add(itemOf(group, { id, fields, size }, routes, settings.ordered, { deliveries, attempts }))
      } else {
        this.#trimmed(group, id)
      }
    }
    this.wake()
  }

  /** An entry that is held was trimmed, and its payload is not here. A call that runs may still get it from a reply under way. */
  #lostPayload(group: Group, id: string): void {
    const item = this.schedule.get(group.key, id)
    if (!item || item.fields || item.state === 'running') return
    this.#trimmed(group, item.origin)
    this.#drop(item)
  }

  #trimmed({ stream }: Group, entry: string): void {
    this.#parts.metrics.trimmed(stream)
    this.#parts.log.error({ stream, entry }, 'an entry was trimmed while it was pending: it is lost to this group')
  }

  #add(item: Item): void {
    this.#payloads.add(item)
    this.schedule.add(item)
    const breaker = this.#breakers.of(item.route)
    if (!breaker?.isOpen) return
    this.#payloads.spare(item)
    if (!this.#isSurplus(item)) return
    // As long again as it has been open: what fails for long is moved to and fro less often.
    const milliseconds = Math.min(SET_ASIDE_AFTER, Math.max(MIN_SET_ASIDE_MS, breaker.openMs))
    item.due = Math.max(item.due, Date.now() + milliseconds)
    void this.#setAside(item, 'The circuit breaker of its handler is open', () => this.#wait(item, milliseconds))
  }

  /**
   * What fails of one stream and handler must not take up what this worker holds. The only event to probe with that was never tried is
   * kept, however many there are that were.
   */
  #isSurplus({ route, key, tried, state }: Item): boolean {
    const { settings, maxWaiting } = this.#parts
    const others = this.schedule.waitingBy(route, key) - (state === 'running' ? 0 : 1)
    // What a closed breaker does not hold up waits beside what `prefetch` says.
    const prefetch = this.isOpen(route) ? settings.prefetch : undefined
    const most = Math.min(maxWaiting(), Math.ceil((prefetch ?? Number.POSITIVE_INFINITY) / 2))
    if (settings.ordered || others < most) return false
    return tried || this.schedule.freshOf(route) > 1
  }

  /** Held, or done while Redis does not know it yet. */
  #has(group: Group, id: string): boolean {
    return this.schedule.get(group.key, id) !== undefined || this.#settlement.isDone(group, id)
  }

  /** All of a stream that Redis takes for pending here, and nobody else should take. */
  idsOf(group: Group): string[] {
    const ids = this.#settlement.doneOf(group)
    for (const { key, id } of this.schedule.items()) if (key === group.key) ids.push(id)
    return ids
  }

  /** Another consumer has these by now. */
  lose(key: string, ids: readonly string[]): void {
    for (const id of ids) {
      const item = this.schedule.get(key, id)
      if (item) this.#lose(item)
    }
    this.wake()
  }

  /** Another worker holds all of this stream by now. */
  loseAll(key: string): void {
    for (const item of [...this.schedule.items()]) if (item.group.stream === key) this.#lose(item)
    this.wake()
  }

  /** Should it come back, it is another item: a call that still runs for this one has nothing to say of that. */
  #lose(item: Item): void {
    item.call?.abort(new Error('Another worker has taken this event over'))
    this.#drop(item)
  }

  #drop(item: Item): void {
    this.#timers.clear(item)
    this.#payloads.drop(item)
    this.schedule.remove(item)
  }

  /** Releases what does not run, of one stream or of all; resolves when other workers may take it. */
  release(key?: string): Promise<void> {
    return this.#release((item) => (key === undefined || item.group.stream === key) && item.state !== 'running')
  }

  async #release(isReleased: (item: Item) => boolean): Promise<void> {
    const released = [...this.schedule.items()].filter(isReleased)
    for (const item of released) this.#drop(item)
    if (released.length > 0) this.#releasing = Promise.all([this.#releasing, this.#settlement.release(released)])
    await this.#releasing
  }

  /**
   * Releases what does not run, begins nothing more, and resolves when what runs has finished. When the deadline, in
   * milliseconds, is over, it is aborted, and a handler that ignores its signal is waited for no longer.
   */
  async finish(timeout: number): Promise<void> {
    this.#stopping = true
    this.#timers.stop()
    this.#breakers.stop()
    this.wake()
    const finished = async () => {
      while (this.schedule.running > 0) await this.changed()
    }
    await within(finished(), timeout)
    this.#aborted = true
    if (this.schedule.running > 0) {
      this.#parts.log.warn({ running: this.schedule.running }, 'handlers still run at the deadline of the stop')
      for (const { call } of this.schedule.items()) call?.abort(new Error('The consumer is stopping'))
      await within(finished(), ABORT_GRACE)
    }
    await within(this.#settlement.acknowledged(), LAST_WORDS)
  }

  /** After `finish`, and once nothing more is read: releases all that is left. */
  async close(): Promise<void> {
    await within(
      this.#release(() => true),
      LAST_WORDS,
    )
    this.#gate.stop()
    this.wake()
  }

  async #run(items: Item[]): Promise<void> {
    this.#began.set(items, performance.now())
    try {
      const [first] = items as [Item]
      if ('route' in first.found) await this.#call(items)
      else await this.#turnAway(first, first.found)
    } catch (error) {
      // Nothing above throws but by mistake: the events must not be lost to it.
      if (!(error instanceof StoppedError)) this.#parts.log.error({ err: error }, 'a bug in Outrider: please report it')
      for (const item of items) if (item.state === 'running') this.#wait(item, conflictPause(++item.conflicts))
    }
    this.#began.delete(items)
    const [first] = items as [Item]
    this.#breakers.of(first.route)?.end(first, !isHeld(first))
    this.schedule.end(items)
    this.wake()
  }

  /** What no handler takes. */
  async #turnAway(item: Item, found: Exclude<Found, { route: unknown }>): Promise<void> {
    if ('skip' in found) return this.#finish(item, 'skipped')
    if ('malformed' in found) return this.#bury(item, 'malformed', found.malformed)
    const { versionGrace, ordered } = this.#parts.settings
    item.since ??= Date.now()
    const left = found.newer ? item.since + versionGrace - Date.now() : 0
    if (left <= 0) return this.#bury(item, found.unknown, found.error)
    this.#parts.log.warn({ ...told(item), waits: left }, `a newer worker is waited for: ${found.error}`)
    this.#settlement.remember(item, { attempts: item.attempts, failingSince: item.failingSince, since: item.since })
    if (ordered) return this.#wait(item, left)
    // Between two offers it is held, or this worker would be the next to get it again and again.
    this.#wait(item, Math.min(left, OFFER_EVERY), () => {
      this.#drop(item)
      void this.#settlement.release([item])
    })
  }

  async #call(items: readonly Item[]): Promise<void> {
    // What waits after all keeps back what came along behind it in its lane.
    const waiting = new Set<string>()
    const pass = async (all: readonly Item[], step: (item: Item) => Promise<boolean>): Promise<Item[]> => {
      const passed: Item[] = []
      for (const item of all) {
        if (item.lane !== undefined && waiting.has(item.lane)) this.#requeue(item)
        else if (await step(item)) passed.push(item)
        else if (item.lane !== undefined && isHeld(item)) waiting.add(item.lane)
      }
      // Some may have been lost while others were made ready.
      return passed.filter(isHeld)
    }
    const begun = await pass(items, (item) => this.#begin(item))
    // Not before this delivery is counted: a payload may be what kills its workers.
    for (const { item, missing } of await this.#payloads.load(begun)) {
      this.#missing(item, missing)
      if (item.lane !== undefined && isHeld(item)) waiting.add(item.lane)
    }
    const ready = await pass(
      begun.filter(({ state }) => state === 'running'),
      (item) => this.#read(item),
    )
    if (ready.length === 0) return
    // A probe, or what was tried before, says little of how quick the handler is; a batch handler does one alone more slowly.
    const [{ route, tried }] = ready as [Item]
    const failure = await this.#attempt(ready, !tried && !this.isOpen(route))
    if (!failure) return
    if (ready.length === 1 || (faultOf(failure) && !wouldCount(ready, failure))) {
      for (const item of ready) this.#failed(item, failure)
      return
    }
    // One of them is to blame: each for itself, and what comes behind it in its lane not before it.
    const blocked = new Set<string>()
    for (const item of ready) {
      if (!isHeld(item)) continue
      if (
        this.#stopping ||
        this.blocked ||
        this.isOpen(item.route) ||
        (item.lane !== undefined && blocked.has(item.lane))
      ) {
        item.data = undefined
        this.#requeue(item)
        continue
      }
      const own = await this.#attempt([item], false)
      if (own) this.#failed(item, own)
      if (item.state !== 'gone' && item.lane !== undefined) blocked.add(item.lane)
    }
  }

  /** Whether it may be read and run; else it was dealt with. */
  async #begin(item: Item): Promise<boolean> {
    if (!isHeld(item)) return false
    this.#payloads.claim(item)
    // The pause that another worker has begun is waited for to its end.
    const early = item.due - Date.now()
    if (early > 0) {
      this.#wait(item, early)
      return false
    }
    if (item.deliveries >= MOST_DELIVERIES && !item.begun) {
      await this.#endCrashed(item)
      return false
    }
    if (item.taken && !item.begun) {
      const ours = await this.#settlement.begin(item)
      if (ours === undefined) {
        this.#wait(item, conflictPause(++item.conflicts))
        return false
      }
      // An ordered worker has what its lease says, even where the group was lost: what comes behind must not come before.
      if (!ours && !this.#parts.settings.ordered) this.#drop(item)
      if (!isHeld(item)) return false
      item.deliveries += 1
      item.begun = true
    }
    return true
  }

  /** There is no payload to be had. */
  #missing(item: Item, missing: Missing['missing']): void {
    if (!isHeld(item)) return
    if (missing === 'trimmed') this.#drop(item)
    else if (missing === 'refused') this.#wait(item, conflictPause(++item.conflicts))
    else if (this.#parts.settings.ordered) this.#takeAgain(item)
    else {
      this.#parts.log.warn(told(item), 'an entry is not pending with this worker any more; it is dropped unprocessed')
      this.#drop(item)
    }
  }

  /**
   * Ordered: the entry may be delivered again, after its group or stream was lost. What is held behind it must not come before, so all
   * of the stream is dropped and taken again.
   */
  #takeAgain({ group: { stream } }: Item): void {
    this.#parts.onGap(stream)
    this.loseAll(stream)
  }

  /** Parses and validates the payload. Whether it may be run; else it was dealt with. */
  async #read(item: Item): Promise<boolean> {
    if (!isHeld(item)) return false
    const { inboxWindow } = this.#parts.settings
    const { definition } = item.found as Extract<Found, { route: unknown }>
    let data: unknown
    try {
      data = payloadOf(item.fields as readonly string[])
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error
      await this.#bury(item, 'malformed', error.message)
      return false
    }
    const age = Date.now() - bornAt(item.event, item.id)
    if (age > inboxWindow) {
      const error = `Expected an event of the last ${hours(inboxWindow)} hours (inboxWindow), found one of ${hours(age)} hours: whether this group has done it before is not known any more`
      await this.#bury(item, 'expired', error)
      return false
    }
    // Anew with each attempt: a schema may look at something outside.
    const valid = await validate(definition.data, data).catch((error) => {
      this.#failed(item, new TransactionFailure(error, 'handler', 'open'))
    })
    if (!valid) return false
    if ('invalid' in valid) {
      await this.#bury(item, 'invalid_data', valid.invalid)
      return false
    }
    item.data = valid.value
    return true
  }

  /**
   * Unless its workers only could not say that it is done, or one of them is still doing it. Where the handler has a key of its
   * own the inbox is not asked: the code of the team, `key` or a schema, may be what killed the workers.
   */
  async #endCrashed(item: Item): Promise<void> {
    const { database, group } = this.#parts.setting
    let isDone = false
    try {
      isDone = !item.route.key && (await isCommitted(database, group, inboxKeyOf(item.route, item.event)))
    } catch (error) {
      this.#failed(item, error instanceof TransactionFailure ? error : new TransactionFailure(error, 'handler', 'open'))
      return
    }
    if (isDone) this.#finish(item, 'duplicate')
    else if (item.deliveries >= NACKED) await this.#bury(item, 'nacked', 'It was given up with XNACK FATAL')
    else await this.#bury(item, 'crashed', `Its worker ended without an outcome ${item.deliveries} times`)
  }

  /** One transaction for all of them, whose time counts where `isTimed`. Undefined when it is committed: they are done. */
  async #attempt(items: readonly Item[], isTimed: boolean): Promise<TransactionFailure | undefined> {
    const { setting, metrics, settings, leaseOf } = this.#parts
    const [{ route, group, event }] = items as [Item]
    // What is held is held under the lease of now: with a lease, all that was held under it is lost.
    const lease = settings.ordered ? leaseOf(group.stream) : undefined
    if (settings.ordered && !lease) {
      for (const item of items) this.#drop(item)
      return undefined
    }
    const call = new Stop()
    for (const item of items) item.call = call
    const began = performance.now()
    try {
      const done = await perform(setting, {
        route,
        events: items.map((item) => ({ ...item.event, data: item.data })),
        attempt: 1 + Math.max(...items.map(({ attempts }) => attempts)),
        stop: call,
        isSettled: async () => {
          // Until then no other worker has claimed it.
          const isOurs = performance.now() - began < settings.claimAfter
          return !isOurs && this.#settlement.isSettled(items[0] as Item)
        },
        lease,
      })
      this.#gate.open()
      const seconds = (performance.now() - began) / 1000
      metrics.ran(event.type, seconds)
      if (isTimed) this.times.note(route, seconds, items.length)
      for (const [place, item] of items.entries()) this.#finish(item, done.has(place) ? 'done' : 'duplicate')
      return undefined
    } catch (error) {
      return error instanceof TransactionFailure ? error : new TransactionFailure(error, 'handler', 'open')
    } finally {
      for (const item of items) item.call = undefined
    }
  }

  #failed(item: Item, failure: TransactionFailure): void {
    const { metrics, onFenced } = this.#parts
    const fault = faultOf(failure)
    const cause = errorOf(failure.cause)
    // For what does not run, one copy of a payload is enough.
    item.data = undefined
    if (!isHeld(item)) return
    // Made to fail by the stop: no attempt.
    if (this.#aborted) this.schedule.wait(item)
    else if (fault === 'fenced') {
      this.schedule.wait(item)
      onFenced(item.group.stream)
    } else if (fault === 'outage' && failure.stage !== 'handler') {
      metrics.retried(item.event.type, fault)
      this.#gate.close(cause)
      this.#requeue(item)
    } else if (!fault || wouldCount([item], failure)) this.#attemptFailed(item, cause)
    else this.#interrupted(item, failure.stage, fault, cause)
  }

  /** No attempt: its transaction met another one, or its session was ended while the handler ran. */
  #interrupted(item: Item, stage: Stage, fault: Fault, cause: Error): void {
    const { metrics, log } = this.#parts
    metrics.retried(item.event.type, fault)
    item.conflicts += 1
    // The row of the inbox, held by another transaction, is not the event's doing.
    if (stage !== 'opening') item.interruptions += 1
    const line = { ...told(item), conflicts: item.conflicts, err: cause }
    if (item.conflicts % 10 === 0) log.warn(line, 'a transaction meets others again and again; it runs again')
    else log.debug(line, 'a transaction met another one; it runs again')
    this.#wait(item, conflictPause(item.conflicts))
  }

  #attemptFailed(item: Item, cause: Error): void {
    const { metrics, log, settings } = this.#parts
    item.tried = true
    const breaker = this.#breakers.of(item.route)
    if (breaker?.isOpen && !breaker.isProbe(item)) {
      // It was begun before: only the probe is an attempt.
      this.#requeue(item)
      return
    }
    // What a handler asks for is no failure of the handler; and an event that has failed before tells of itself.
    if (cause instanceof DeadLetter) breaker?.succeeded()
    else if (!(cause instanceof Retry) && (breaker?.isOpen || item.attempts === 0)) breaker?.failed(cause)
    item.attempts += 1
    item.conflicts = 0
    item.interruptions = 0
    item.failingSince ??= Date.now()
    const decision = this.#decide(item, item.failingSince, cause)
    if ('bury' in decision) {
      // It waits for Redis, and holds no place meanwhile.
      this.schedule.wait(item)
      this.#payloads.spare(item)
      void this.#bury(item, decision.bury, decision.error)
      return
    }
    metrics.retried(item.event.type, 'failed')
    log.warn({ ...told(item), attempt: item.attempts, after: decision.retry, err: cause }, 'an attempt failed')
    // An outcome: what Redis has counted begins anew.
    item.deliveries = 0
    item.due = Date.now() + decision.retry
    const isSetAside = (decision.retry > SET_ASIDE_AFTER && !settings.ordered) || this.#isSurplus(item)
    if (isSetAside) void this.#setAside(item, textOf(cause), () => this.#hold(item))
    else this.#hold(item)
  }

  /** Keeps it until its next attempt. */
  #hold(item: Item): void {
    const { attempts, failingSince, due } = item
    this.#settlement.remember(item, { attempts, failingSince, due })
    this.#wait(item, due - Date.now())
  }

  /** `otherwise`: Redis has refused, or it is somebody else's. */
  async #setAside(item: Item, error: string, otherwise: () => void): Promise<void> {
    this.schedule.wait(item)
    const isSetAside = await this.#settlement.setAside(item, item.due, error)
    if (isSetAside) this.#drop(item)
    else if (isHeld(item)) otherwise()
    this.wake()
  }

  /** A `backoff` of the team that throws, or returns no duration, must not keep the event from its end. */
  #decide({ attempts, route }: Item, failingSince: number, cause: Error): Decision {
    try {
      return decide(cause, attempts, Date.now() - failingSince, route.policy)
    } catch (error) {
      this.#parts.log.error({ err: errorOf(error) }, 'backoff failed; the default is used instead')
      return { retry: DEFAULT_BACKOFF(attempts) }
    }
  }

  #finish(item: Item, result: 'done' | 'duplicate' | 'skipped'): void {
    this.#settlement.done(item, result)
    if (result === 'done') this.#breakers.of(item.route)?.succeeded()
    this.#drop(item)
  }

  async #bury(item: Item, reason: string, error: string): Promise<void> {
    const buried = await this.#settlement.bury(item, reason, error)
    if (buried === 'trimmed') await this.#payloads.load([item]).catch(unlessOver)
    // Not pending here any more: the group was lost, and is delivered anew. In order, the others wait for that.
    if (!buried && isHeld(item) && this.#parts.settings.ordered && item.conflicts < MOST_BURIALS) {
      this.#wait(item, conflictPause(++item.conflicts), () => void this.#bury(item, reason, error))
      return
    }
    if (!buried && isHeld(item) && this.#parts.settings.ordered) this.#takeAgain(item)
    else this.#drop(item)
    this.wake()
  }

  /** Waits; then it is queued again, unless something else is to be done. */
  #wait(item: Item, milliseconds: number, then: () => void = () => this.#requeue(item)): void {
    this.schedule.wait(item)
    this.#payloads.spare(item)
    this.#timers.set(item, milliseconds, () => {
      then()
      this.wake()
    })
  }

  /** It may run again; its payload is kept for that unless its handler is not to run. */
  #requeue(item: Item): void {
    this.schedule.requeue(item)
    if (this.isOpen(item.route)) this.#payloads.spare(item)
    else this.#payloads.claim(item)
  }
}

/** How often an ordered worker comes back to a dead letter that it could not write, because it was not pending. */
const MOST_BURIALS = 10

/** Whether one more failure of this kind is an attempt of one of these. */
const wouldCount = (items: readonly Item[], { stage }: TransactionFailure): boolean =>
  stage !== 'opening' && items.some(({ interruptions }) => interruptions + 1 >= MAX_INTERRUPTIONS)

const isHeld = ({ state }: Item): boolean => state !== 'gone'

const hours = (milliseconds: number): string => (milliseconds / 3_600_000).toFixed(1)

const validate = async (schema: StandardSchemaV1, data: unknown): Promise<{ value: unknown } | { invalid: string }> => {
  const result = await schema['~standard'].validate(data)
  return result.issues ? { invalid: describeIssues(result.issues) } : { value: result.value }
}
