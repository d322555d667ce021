import type { HandlerMatch } from '../handler-registry.js'
import { TransactionFailedError } from '../inbox/database.js'
import { type ExecutionContext, execute } from '../inbox/execute.js'
import type { FencingToken } from '../inbox/inbox.js'
import { LazyAbort } from '../lazy-abort.js'
import type { ConsumerMetrics } from '../metrics.js'
import type { ConsumerLogger, ConsumerSettings } from '../options.js'
import { StoppedError } from '../redis/reconnecting-client.js'
import type { Breakers } from './breakers.js'
import type { DatabaseBreaker } from './database-breaker.js'
import { type Call, type Delivery, isCall, isHeld } from './delivery.js'
import type { EntryMover } from './entry-mover.js'
import type { FailureHandler } from './failure-handler.js'
import { isAttempt } from './failure-policy.js'
import type { HandlerTimes } from './handler-times.js'
import type { HeldDeliveries } from './held-deliveries.js'
import type { Preparer } from './preparer.js'
import type { Scheduler } from './scheduler.js'
import { logFields, type Settler } from './settler.js'

export interface ExecutorParts {
  settings: ConsumerSettings
  execution: ExecutionContext
  metrics: ConsumerMetrics
  log: ConsumerLogger
  scheduler: Scheduler
  held: HeldDeliveries
  settler: Settler
  mover: EntryMover
  breakers: Breakers
  databaseBreaker: DatabaseBreaker
  preparer: Preparer
  failures: FailureHandler
  times: HandlerTimes
  /** How an ordered worker holds the stream of a key; undefined where it does not, or not any more. */
  leaseOf(key: string): FencingToken | undefined
  /** Whether another call may begin now. */
  mayBegin(): boolean
  /** A call has ended. */
  onChange(): void
}

/** How often an event of a newer version is offered to the other workers, in milliseconds. */
const OFFER_INTERVAL_MS = 5_000

/** Runs each call to its end: prepares its deliveries, runs their handler, finishes them, and frees its place. */
export class Executor {
  readonly #parts: ExecutorParts
  /** When each call began that runs, the oldest first. */
  readonly #began = new Map<Call, number>()

  constructor(parts: ExecutorParts) {
    this.#parts = parts
  }

  /** The age of the oldest call that runs. */
  get oldestRunningSeconds(): number {
    const [began] = this.#began.values()
    return began === undefined ? 0 : (performance.now() - began) / 1000
  }

  /** Aborts the calls that run. */
  abort(reason: Error): void {
    // The first of a batch may wait already, or not be its turn.
    for (const deliveries of this.#began.keys()) for (const { call } of deliveries) call?.abort(reason)
  }

  async run(call: Call): Promise<void> {
    const { log, scheduler, held, mover, breakers, onChange } = this.#parts
    const [first] = call
    this.#began.set(call, performance.now())
    try {
      if ('route' in first.found) await this.#call(call)
      else await this.#turnAway(first, first.found)
    } catch (error) {
      // Nothing above throws but by mistake: the events must not be lost to it.
      if (!(error instanceof StoppedError)) log.error({ err: error }, 'a bug in Outrider: please report it')
      for (const delivery of call) if (delivery.state === 'running') held.waitAfterConflict(delivery)
    }
    this.#began.delete(call)
    breakers.end(call, !isHeld(first) || mover.isEnding(first))
    scheduler.end(call)
    onChange()
  }

  /** An entry that no handler takes. Asynchronous, so that many in a row do not run within each other. */
  async #turnAway(delivery: Delivery, found: Exclude<HandlerMatch, { route: unknown }>): Promise<void> {
    const { settings, log, held, settler, mover } = this.#parts
    if ('skip' in found) return held.finish(delivery, 'skipped')
    if ('malformed' in found) return mover.deadLetter(delivery, 'malformed', found.malformed)
    const isNew = delivery.since === undefined
    delivery.since ??= Date.now()
    const left = found.newer ? delivery.since + settings.versionGrace - Date.now() : 0
    if (left <= 0) return mover.deadLetter(delivery, found.unknown, found.error)
    const { attempts, failingSince, since } = delivery
    if (isNew) {
      log.warn({ ...logFields(delivery), waits: left }, `a newer worker is waited for: ${found.error}`)
      settler.remember(delivery, { attempts, failingSince, since })
    }
    if (settings.ordered) return held.wait(delivery, left)
    // Held here, they would take up the room of all other events. Idle for less, they are not claimed again at once.
    held.releaseOne(delivery, Math.max(0, settings.claimAfter - Math.min(left, OFFER_INTERVAL_MS)))
  }

  async #call(call: Call): Promise<void> {
    const { breakers, preparer, failures } = this.#parts
    const ready = await preparer.prepare(call)
    if (!isCall(ready)) return
    // A probe, or an event that was tried before, says little of how quick the handler is; a batch handler does one alone more slowly.
    const [{ route, tried }] = ready
    const failure = await this.#attempt(ready, !tried && !breakers.isOpen(route))
    if (!failure) return
    if (ready.length > 1 && isAttempt(failure, ready)) await this.#attemptEach(ready)
    else for (const delivery of ready) failures.handle(delivery, failure)
  }

  /** One of a batch is to blame for its failure: each runs alone, and what comes behind it in its ordering key not before it. */
  async #attemptEach(call: Call): Promise<void> {
    const { held, breakers, failures, mayBegin } = this.#parts
    const blocked = new Set<string>()
    for (const delivery of call) {
      const { orderingKey, route } = delivery
      if (!isHeld(delivery)) continue
      if (!mayBegin() || breakers.isOpen(route) || (orderingKey !== undefined && blocked.has(orderingKey))) {
        delivery.data = undefined
        held.requeue(delivery)
        continue
      }
      const failure = await this.#attempt([delivery], false)
      if (failure) failures.handle(delivery, failure)
      if (isHeld(delivery) && orderingKey !== undefined) blocked.add(orderingKey)
    }
  }

  /** One transaction for all of them, whose time counts where `isTimed`. Undefined when it is committed: they are finished. */
  async #attempt(call: Call, isTimed: boolean): Promise<TransactionFailedError | undefined> {
    const { execution, metrics, settings, held, settler, databaseBreaker, times, leaseOf } = this.#parts
    const [first] = call
    const { route, event } = first
    // All deliveries were read under the lease of now: with a lease, all that was held under it is lost.
    const lease = settings.ordered ? leaseOf(first.group.stream) : undefined
    if (settings.ordered && !lease) {
      for (const delivery of call) held.drop(delivery)
      return undefined
    }
    const stop = new LazyAbort()
    for (const delivery of call) delivery.call = stop
    const began = performance.now()
    try {
      const done = await execute(execution, {
        route,
        events: call.map((delivery) => ({ ...delivery.event, data: delivery.data })),
        attempt: 1 + Math.max(...call.map(({ attempts }) => attempts)),
        stop,
        isSettled: async () => {
          // Until then no other worker has claimed it.
          const isOurs = performance.now() - began < settings.claimAfter
          return !isOurs && settler.isSettled(first)
        },
        lease,
      })
      databaseBreaker.close()
      const seconds = (performance.now() - began) / 1000
      metrics.ran(event.type, seconds)
      if (isTimed) times.note(route, seconds, call.length)
      call.forEach((delivery, place) => {
        held.finish(delivery, done.has(place) ? 'done' : 'duplicate')
      })
      return undefined
    } catch (error) {
      return TransactionFailedError.of(error)
    } finally {
      for (const delivery of call) delivery.call = undefined
    }
  }
}
