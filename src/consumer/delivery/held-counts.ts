import type { RegisteredHandler } from '../handler-registry.js'
import type { Delivery, DeliveryState } from './delivery.js'

/** Deliveries that do not run. */
interface Parked {
  waiting: number
  /** Including those behind another with the same ordering key. */
  queued: number
}

const NONE_PARKED: Readonly<Parked> = { waiting: 0, queued: 0 }

const isActive = (state: DeliveryState): boolean => state !== 'waiting' && state !== 'gone'

/** How many deliveries are held: by state, by stream, and by handler. */
export class HeldCounts {
  readonly #byState: Record<DeliveryState, number> = { queued: 0, behind: 0, running: 0, waiting: 0, gone: 0 }
  /** By the key of the stream. */
  readonly #byKey = new Map<string, number>()
  /** By handler and stream. */
  readonly #parked = new Map<RegisteredHandler, Map<string, Parked>>()
  /** By handler: those that other workers have left, unless they wait. */
  readonly #left = new Map<RegisteredHandler, number>()

  of(state: DeliveryState): number {
    return this.#byState[state]
  }

  /** Deliveries of the stream with this key. */
  ofKey(key: string): number {
    return this.#byKey.get(key) ?? 0
  }

  leftOf(route: RegisteredHandler): number {
    return this.#left.get(route) ?? 0
  }

  parkedOf(route: RegisteredHandler, key: string): Readonly<Parked> {
    return this.#parked.get(route)?.get(key) ?? NONE_PARKED
  }

  /** It is held from now on. */
  add(delivery: Delivery): void {
    const { key, state, taken } = delivery
    this.#byKey.set(key, this.ofKey(key) + 1)
    this.#countParked(delivery, state, 1)
    this.#byState[state] += 1
    if (taken) this.#countLeft(delivery, 1)
  }

  /** Its state becomes this one; a delivery that becomes `gone` is not held any more. */
  change(delivery: Delivery, state: DeliveryState): void {
    if (delivery.taken) this.#countLeft(delivery, Number(isActive(state)) - Number(isActive(delivery.state)))
    this.#countParked(delivery, delivery.state, -1)
    this.#countParked(delivery, state, 1)
    this.#byState[delivery.state] -= 1
    if (state === 'gone') this.#forget(delivery)
    else this.#byState[state] += 1
  }

  #forget({ key }: Delivery): void {
    const held = this.ofKey(key) - 1
    if (held > 0) this.#byKey.set(key, held)
    else this.#byKey.delete(key)
  }

  #countParked({ route, key }: Delivery, state: DeliveryState, more: number): void {
    const by = this.#parked.get(route) ?? new Map<string, Parked>()
    this.#parked.set(route, by)
    const parked = by.get(key) ?? { waiting: 0, queued: 0 }
    by.set(key, parked)
    if (state === 'waiting') parked.waiting += more
    else if (state === 'queued' || state === 'behind') parked.queued += more
  }

  #countLeft({ route }: Delivery, more: number): void {
    if (more !== 0) this.#left.set(route, this.leftOf(route) + more)
  }
}
