import type { RegisteredHandler } from '../handler-registry.js'

/** Of a new measurement in the average. */
const WEIGHT = 0.2

/** How long the handlers take, as a moving average: so much work is held as a worker does in about a second. */
export class HandlerTimes {
  /** For one event, by handler. */
  readonly #seconds = new Map<RegisteredHandler, number>()

  /** A call has done so many events. One that failed says nothing: it may have ended at once, or hung. */
  note(route: RegisteredHandler, seconds: number, events: number): void {
    const each = seconds / events
    const before = this.#seconds.get(route) ?? each
    this.#seconds.set(route, before + WEIGHT * (each - before))
  }

  /** Events that so many calls at once do in a second; undefined before the first call has succeeded. */
  perSecond(route: RegisteredHandler, calls: number): number | undefined {
    const seconds = this.#seconds.get(route)
    return seconds === undefined ? undefined : calls / Math.max(seconds, 1e-6)
  }
}
