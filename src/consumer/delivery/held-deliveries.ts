import type { Breakers } from './breakers.js'
import type { Delivery } from './delivery.js'
import type { Payloads } from './payloads.js'
import { conflictPause } from './retry-policy.js'
import type { Scheduler } from './scheduler.js'
import type { Settler } from './settler.js'
import { Timers } from './timers.js'

export interface HeldDeliveriesParts {
  scheduler: Scheduler
  payloads: Payloads
  breakers: Breakers
  settler: Settler
  /** Ordered: an entry of this stream is not pending here any more, so all that is pending must be taken again, in order. */
  onGap(key: string): void
  /** A delivery may run, or is gone. */
  onChange(): void
}

/** The deliveries that this worker holds. Each step of a delivery changes its place in the schedule, its payload and its timer. */
export class HeldDeliveries {
  readonly #parts: HeldDeliveriesParts
  readonly #timers = new Timers<Delivery>()
  /** Resolves when Redis has confirmed all that was released. */
  #releasing: Promise<void> = Promise.resolve()

  constructor(parts: HeldDeliveriesParts) {
    this.#parts = parts
  }

  add(delivery: Delivery): void {
    this.#parts.payloads.add(delivery)
    this.#parts.scheduler.add(delivery)
  }

  drop(delivery: Delivery): void {
    this.#timers.clear(delivery)
    this.#parts.payloads.drop(delivery)
    this.#parts.scheduler.remove(delivery)
  }

  /** Its effects are committed, now or before; or it is passed over. */
  finish(delivery: Delivery, result: 'done' | 'duplicate' | 'skipped'): void {
    this.#parts.settler.done(delivery, result)
    if (result === 'done') this.#parts.breakers.succeeded(delivery.route)
    this.drop(delivery)
  }

  /** It waits for an answer, or for the end of the worker, and holds no place meanwhile. */
  suspend(delivery: Delivery): void {
    this.#parts.scheduler.wait(delivery)
  }

  /** Waits so many milliseconds; then it is queued again, or `then` is called. */
  wait(delivery: Delivery, milliseconds: number, then: () => void = () => this.requeue(delivery)): void {
    this.#parts.scheduler.wait(delivery)
    this.#parts.payloads.spare(delivery)
    this.#timers.set(delivery, milliseconds, () => {
      then()
      this.#parts.onChange()
    })
  }

  /** Waits a moment, longer each time: it could not run, and that is no attempt. */
  waitAfterConflict(delivery: Delivery): void {
    delivery.conflicts += 1
    this.wait(delivery, conflictPause(delivery.conflicts))
  }

  /** It may run again; its payload is kept for that unless the breaker of its handler is open. */
  requeue(delivery: Delivery): void {
    this.#parts.scheduler.requeue(delivery)
    if (this.#parts.breakers.isOpen(delivery.route)) this.#parts.payloads.spare(delivery)
    else this.#parts.payloads.claim(delivery)
  }

  /** Another worker has it. If it is delivered here again, that is another delivery, and a call that still runs changes nothing of it. */
  lose(delivery: Delivery): void {
    delivery.call?.abort(new Error('Another worker has taken this event over'))
    this.drop(delivery)
  }

  /** Another worker holds all of this stream. */
  loseAll(stream: string): void {
    for (const delivery of this.#of(stream)) this.lose(delivery)
  }

  /**
   * Ordered: the entry may be delivered again, after its group or stream was lost. The entries behind it must not run before it, so all
   * of the stream is dropped and taken again. A call that runs may still commit: a new delivery of its entry waits for its inbox row.
   */
  takeAgain({ group: { stream } }: Delivery): void {
    this.#parts.onGap(stream)
    for (const delivery of this.#of(stream)) this.drop(delivery)
    this.#parts.onChange()
  }

  /** Resolves when other workers may take these, and all that was released before. */
  async release(isReleased: (delivery: Delivery) => boolean): Promise<void> {
    const released = [...this.#parts.scheduler.deliveries()].filter(isReleased)
    for (const delivery of released) this.drop(delivery)
    if (released.length > 0) {
      // Without its results, which would hold those of all releases before.
      this.#releasing = Promise.all([this.#releasing, this.#parts.settler.release(released)]).then(() => {})
    }
    await this.#releasing
  }

  /** Releases one whose entry is not to be kept here, so that it counts as idle for `idle` milliseconds. */
  releaseOne(delivery: Delivery, idle?: number): void {
    this.drop(delivery)
    void this.#parts.settler.release([delivery], idle)
  }

  stopTimers(): void {
    this.#timers.stop()
  }

  #of(stream: string): Delivery[] {
    return [...this.#parts.scheduler.deliveries()].filter(({ group }) => group.stream === stream)
  }
}
