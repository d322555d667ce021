import type { RegisteredHandler } from '../handler-registry.js'
import type { Delivery } from './delivery.js'

/** An event that may have killed its worker more than once runs with no other such at the same time. */
export const isSuspect = (delivery: Delivery): boolean => delivery.deliveryCount >= 2

const NONE: readonly Delivery[] = []

/** Deliveries that may run: a queue of each handler, and one of all suspects. Each is in the order of arrival. */
export class RunQueues {
  readonly #queues = new Map<RegisteredHandler, Delivery[]>()
  readonly #suspects: Delivery[] = []
  /** By handler: those in its queue that were tried before. */
  readonly #tried = new Map<RegisteredHandler, number>()

  get suspects(): readonly Delivery[] {
    return this.#suspects
  }

  /** The queues by handler. */
  entries(): IterableIterator<[RegisteredHandler, readonly Delivery[]]> {
    return this.#queues.entries()
  }

  of(route: RegisteredHandler): readonly Delivery[] {
    return this.#queues.get(route) ?? NONE
  }

  suspectsOf(route: RegisteredHandler): Delivery[] {
    return this.#suspects.filter((delivery) => delivery.route === route)
  }

  triedOf(route: RegisteredHandler): number {
    return this.#tried.get(route) ?? 0
  }

  insert(delivery: Delivery): void {
    const queue = this.#queueOf(delivery)
    const last = queue.at(-1)
    if (!last || last.place <= delivery.place) queue.push(delivery)
    else queue.splice(queue.findLastIndex(({ place }) => place <= delivery.place) + 1, 0, delivery)
    this.#countTried(delivery, 1)
  }

  remove(delivery: Delivery): void {
    const queue = this.#queueOf(delivery)
    // Most often it is the first, and a queue is long: all behind it would be moved for each.
    if (queue[0] === delivery) queue.shift()
    else {
      const at = queue.indexOf(delivery)
      if (at < 0) return
      queue.splice(at, 1)
    }
    this.#countTried(delivery, -1)
  }

  #queueOf(delivery: Delivery): Delivery[] {
    if (isSuspect(delivery)) return this.#suspects
    const known = this.#queues.get(delivery.route)
    if (known) return known
    const queue: Delivery[] = []
    this.#queues.set(delivery.route, queue)
    return queue
  }

  #countTried(delivery: Delivery, more: number): void {
    if (delivery.tried && !isSuspect(delivery)) this.#tried.set(delivery.route, this.triedOf(delivery.route) + more)
  }
}
