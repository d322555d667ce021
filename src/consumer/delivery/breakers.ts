import type { HandlerRegistry, RegisteredHandler } from '../handler-registry.js'
import type { ConsumerLogger, ConsumerSettings } from '../options.js'
import { CircuitBreaker } from './circuit-breaker.js'
import type { Call, Delivery } from './delivery.js'
import type { Payloads } from './payloads.js'
import { DeadLetter, Retry } from './retry-policy.js'
import type { Scheduler } from './scheduler.js'

export interface BreakersParts {
  settings: Pick<ConsumerSettings, 'ordered' | 'prefetch'>
  routes: HandlerRegistry
  log: ConsumerLogger
  scheduler: Scheduler
  payloads: Payloads
  /** Entries of one stream and handler that are held while they wait. */
  maxWaiting(): number
  /** A probe may begin. */
  onProbe(): void
}

/**
 * The circuit breakers of all handlers. While one is open, the scheduler begins only probes of its handler, its queued deliveries give
 * up their payloads first, and only a bounded number of them is held.
 */
export class Breakers {
  readonly #parts: BreakersParts
  readonly #breakers = new Map<RegisteredHandler, CircuitBreaker<Delivery>>()
  /** Those that are open. */
  readonly #open = new Map<RegisteredHandler, CircuitBreaker<Delivery>>()

  constructor(parts: BreakersParts) {
    this.#parts = parts
    for (const route of parts.routes.all) this.#breakers.set(route, this.#breakerOf(route))
  }

  #breakerOf(route: RegisteredHandler): CircuitBreaker<Delivery> {
    const { log, onProbe } = this.#parts
    const handler = { types: route.types }
    const breaker = new CircuitBreaker<Delivery>({
      onOpen: (cause) => {
        this.#open.set(route, breaker)
        log.warn({ ...handler, err: cause }, 'circuit breaker opened: the handler fails, one event at a time is tried')
        this.#block(route)
      },
      onClose: (openMs) => {
        this.#open.delete(route)
        log.info({ ...handler, openMs: Math.round(openMs) }, 'circuit breaker closed')
        this.#unblock(route)
      },
      onProbe,
    })
    return breaker
  }

  isOpen(route: RegisteredHandler): boolean {
    return this.#open.has(route)
  }

  /** Milliseconds since the breaker opened; undefined while it is closed, and without a handler. */
  openMs(route: RegisteredHandler): number | undefined {
    return this.#open.get(route)?.openMs
  }

  /** Whether a probe runs that the next one waits for. */
  isProbing(route: RegisteredHandler): boolean {
    return this.#breakers.get(route)?.isProbing === true
  }

  /** Whether the breaker of its handler is open, and it is not the probe. */
  isHeldBack(delivery: Delivery): boolean {
    return this.#open.get(delivery.route)?.isProbe(delivery) === false
  }

  /** Whether a circuit breaker is open, by type; the versions of a type may have several. */
  get states(): { type: string; open: boolean }[] {
    const open = new Map<string, boolean>()
    for (const route of this.#parts.routes.all) {
      for (const type of route.types) open.set(type, open.get(type) === true || this.isOpen(route))
    }
    return [...open].map(([type, open]) => ({ type, open }))
  }

  /** Calls of one event each, of the handlers whose breaker is open, whose pause is over, and of which no other event is tried. */
  *probes(): Generator<Call> {
    for (const [route, breaker] of this.#open) {
      const call = breaker.mayProbe ? this.#parts.scheduler.probe(route) : undefined
      if (!call) continue
      breaker.begin(call[0])
      yield call
    }
  }

  /** A call is over. `isGone`: its first event has come to its end. */
  end([first]: Call, isGone: boolean): void {
    this.#breakers.get(first.route)?.end(first, isGone)
  }

  succeeded(route: RegisteredHandler): void {
    this.#breakers.get(route)?.succeeded()
  }

  /** A DeadLetter or a Retry is no failure of the handler; and an event that failed before says nothing about the others. */
  failed({ route, attempts }: Delivery, cause: Error): void {
    const breaker = this.#breakers.get(route)
    if (cause instanceof DeadLetter) breaker?.succeeded()
    else if (!(cause instanceof Retry) && (breaker?.isOpen || attempts === 0)) breaker?.failed(cause)
  }

  /**
   * Failing events of one stream and handler must not take up all that this worker holds. The only event to probe with that was never
   * tried is kept, however many there are that were.
   */
  isSurplus(delivery: Delivery): boolean {
    return this.exceedsWaiting(delivery) && (delivery.tried || this.#parts.scheduler.freshOf(delivery.route) > 1)
  }

  /** Whether as many others of its stream and handler wait as a worker holds. Never in order. */
  exceedsWaiting({ route, key, state }: Delivery): boolean {
    const { settings, scheduler, maxWaiting } = this.#parts
    const again = this.isOpen(route) ? 0 : scheduler.triedOf(route)
    const others = scheduler.waitingBy(route, key) + again - (state === 'running' ? 0 : 1)
    // `prefetch` does not count the events that a closed breaker does not hold up.
    const prefetch = this.isOpen(route) ? settings.prefetch : undefined
    const most = Math.min(maxWaiting(), Math.ceil((prefetch ?? Number.POSITIVE_INFINITY) / 2))
    return !settings.ordered && others >= most
  }

  stop(): void {
    for (const breaker of this.#breakers.values()) breaker.stop()
  }

  #block(route: RegisteredHandler): void {
    this.#parts.scheduler.block(route)
    for (const delivery of this.#queued(route)) this.#parts.payloads.spare(delivery)
  }

  #unblock(route: RegisteredHandler): void {
    this.#parts.scheduler.unblock(route)
    for (const delivery of this.#queued(route)) this.#parts.payloads.claim(delivery)
  }

  #queued(route: RegisteredHandler): Delivery[] {
    return [...this.#parts.scheduler.deliveries()].filter(
      (delivery) => delivery.route === route && (delivery.state === 'queued' || delivery.state === 'behind'),
    )
  }
}
