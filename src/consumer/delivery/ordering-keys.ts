import type { Delivery } from './delivery.js'

const NONE: readonly Delivery[] = []

/** The deliveries of each ordering key, in the order of arrival, whatever their state. Only the first of a key may run. */
export class OrderingKeys {
  readonly #deliveries = new Map<string, Delivery[]>()

  add(delivery: Delivery): void {
    const { orderingKey } = delivery
    if (orderingKey === undefined) return
    const deliveries = this.#deliveries.get(orderingKey)
    if (deliveries) deliveries.push(delivery)
    else this.#deliveries.set(orderingKey, [delivery])
  }

  /** The one that is the first of its ordering key now; undefined without one. */
  remove(delivery: Delivery): Delivery | undefined {
    const { orderingKey } = delivery
    const deliveries = orderingKey === undefined ? undefined : this.#deliveries.get(orderingKey)
    if (orderingKey === undefined || !deliveries) return undefined
    deliveries.splice(deliveries.indexOf(delivery), 1)
    if (deliveries.length === 0) this.#deliveries.delete(orderingKey)
    return deliveries[0]
  }

  /** Whether it may run: it is the first of its ordering key, or has none. */
  isFirst(delivery: Delivery): boolean {
    const { orderingKey } = delivery
    return orderingKey === undefined || this.#deliveries.get(orderingKey)?.[0] === delivery
  }

  /** Those behind the first one of this ordering key. */
  behindFirst(orderingKey: string | undefined): readonly Delivery[] {
    return orderingKey === undefined ? NONE : (this.#deliveries.get(orderingKey)?.slice(1) ?? NONE)
  }
}
