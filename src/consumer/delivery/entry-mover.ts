import type { RegisteredHandler } from '../handler-registry.js'
import type { Breakers } from './breakers.js'
import { type Delivery, isHeld } from './delivery.js'
import type { HeldDeliveries } from './held-deliveries.js'
import type { Payloads } from './payloads.js'
import { conflictPause, exponential } from './retry-policy.js'
import { type Settler, unlessOver } from './settler.js'

export interface EntryMoverParts {
  ordered: boolean
  /** Milliseconds after which an idle entry is claimed. */
  claimAfter: number
  breakers: Breakers
  held: HeldDeliveries
  payloads: Payloads
  settler: Settler
  /** A delivery is gone. */
  onChange(): void
}

/** Between the attempts of a dead letter that Redis refuses. */
const deadLetterPause = exponential(100, 30_000)

/** How often an ordered worker comes back to a dead letter that it could not write, because it was not pending. */
const MAX_DEAD_LETTER_TRIES = 10

/** How soon a released entry whose dead letter was refused is claimed again, in milliseconds. */
const COMES_BACK_AFTER_MS = 5_000

/** After Redis has refused a dead letter that is not held: how long others of that handler are claimed one by one, in milliseconds. */
const REFUSED_FOR_MS = 2 * COMES_BACK_AFTER_MS

/** Moves entries out of their stream: to the dead letters, or to the waiting stream until their next attempt. */
export class EntryMover {
  readonly #parts: EntryMoverParts
  /** On their way to the dead letters. */
  readonly #ending = new WeakSet<Delivery>()
  /** By handler: when Redis last refused a dead letter that is not held, by performance.now(). */
  readonly #refusedAt = new Map<RegisteredHandler, number>()

  constructor(parts: EntryMoverParts) {
    this.#parts = parts
  }

  /** Whether it is on its way to the dead letters. */
  isEnding(delivery: Delivery): boolean {
    return this.#ending.has(delivery)
  }

  /** Whether Redis refuses more dead letters of this handler than are held: those that were released come back again and again. */
  isRefused(route: RegisteredHandler): boolean {
    const at = this.#refusedAt.get(route)
    return at !== undefined && performance.now() - at < REFUSED_FOR_MS
  }

  /** It waits for Redis, and holds no place meanwhile. */
  deadLetter(delivery: Delivery, reason: string, error: string): void {
    this.#ending.add(delivery)
    this.#parts.held.suspend(delivery)
    this.#parts.payloads.spare(delivery)
    void this.#writeDeadLetter(delivery, reason, error, 1)
  }

  /** `otherwise`: Redis has refused, or the entry is not pending here any more. */
  async setAside(delivery: Delivery, error: string, otherwise: () => void): Promise<void> {
    this.#parts.held.suspend(delivery)
    const moved = await this.#parts.settler.setAside(delivery, delivery.due, error)
    if (moved === true) this.#parts.held.drop(delivery)
    else if (isHeld(delivery)) otherwise()
    this.#parts.onChange()
  }

  async #writeDeadLetter(delivery: Delivery, reason: string, error: string, attempt: number): Promise<void> {
    const { ordered, claimAfter, held, payloads, breakers, settler } = this.#parts
    const moved = await settler.deadLetter(delivery, reason, error, attempt)
    if (moved === true) this.#refusedAt.delete(delivery.route)
    if (moved === 'trimmed') await payloads.load([delivery]).catch(unlessOver)
    // It comes back after a while, to this worker or another one: those that Redis refuses must not take up all that is held.
    if (moved === 'refused' && isHeld(delivery) && breakers.exceedsWaiting(delivery)) {
      this.#refusedAt.set(delivery.route, performance.now())
      held.releaseOne(delivery, Math.max(0, claimAfter - COMES_BACK_AFTER_MS))
      this.#parts.onChange()
      return
    }
    const isLost = !moved && isHeld(delivery) && ordered
    if (isHeld(delivery) && (moved === 'refused' || (isLost && attempt < MAX_DEAD_LETTER_TRIES))) {
      // Not pending here any more: the group was lost, and is delivered again. In order, the others wait for that.
      const pause = moved === 'refused' ? deadLetterPause : conflictPause
      held.wait(delivery, pause(attempt), () => void this.#writeDeadLetter(delivery, reason, error, attempt + 1))
      return
    }
    if (isLost) held.takeAgain(delivery)
    else held.drop(delivery)
    this.#parts.onChange()
  }
}
