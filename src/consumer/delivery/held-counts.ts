import type { RegisteredHandler } from '../handler-registry.js'
import type { Delivery, DeliveryState } from './delivery.js'

/** Deliveries that do not run. */
interface Parked {
  waiting: number
  /** Including those behind another with the same ordering key. */
  queued: number
}

const NONE_PARKED: Readonly<Parked> = { waiting: 0, queued: 0 }

const isParked = (state: DeliveryState): boolean => state !== 'running' && state !== 'gone'

const isActive = (state: DeliveryState): boolean => state !== 'waiting' && state !== 'gone'

/** How many deliveries are held: by state, and by handler. */
export class HeldCounts {
  readonly #byState: Record<DeliveryState, number> = { queued: 0, behind: 0, running: 0, waiting: 0, gone: 0 }
  /** By handler and stream. */
  readonly #parked = new Map<RegisteredHandler, Map<string, Parked>>()
  /** By handler: those that other workers have left, unless they wait. */
  readonly #left = new Map<RegisteredHandler, number>()

  of(state: DeliveryState): number {
    return this.#byState[state]
  }

  leftOf(route: RegisteredHandler): number {
    return this.#left.get(route) ?? 0
  }

  parkedOf(route: RegisteredHandler, key: string): Readonly<Parked> {
    return this.#parked.get(route)?.get(key) ?? NONE_PARKED
  }

  /** It is held from now on. */
  add(delivery: Delivery): void {
    const { state, taken } = delivery
    if (isParked(state)) count(this.#parkedWith(delivery), state, 1)
    this.#byState[state] += 1
    if (taken) this.#countLeft(delivery, 1)
  }

  /** Its state becomes this one; a delivery that becomes `gone` is not held any more. */
  change(delivery: Delivery, state: DeliveryState): void {
    const before = delivery.state
    if (delivery.taken) this.#countLeft(delivery, Number(isActive(state)) - Number(isActive(before)))
    if (isParked(before) || isParked(state)) {
      const parked = this.#parkedWith(delivery)
      count(parked, before, -1)
      count(parked, state, 1)
    }
    this.#byState[before] -= 1
    if (state !== 'gone') this.#byState[state] += 1
  }

  /** The counts that a delivery is one of while it does not run. */
  #parkedWith({ route, key }: Delivery): Parked {
    const byKey = this.#parked.get(route) ?? new Map<string, Parked>()
    const known = byKey.get(key)
    if (known) return known
    const parked = { waiting: 0, queued: 0 }
    this.#parked.set(route, byKey.set(key, parked))
    return parked
  }

  #countLeft({ route }: Delivery, more: number): void {
    if (more !== 0) this.#left.set(route, this.leftOf(route) + more)
  }
}

function count(parked: Parked, state: DeliveryState, more: number): void {
  if (state === 'waiting') parked.waiting += more
  else if (isParked(state)) parked.queued += more
}
