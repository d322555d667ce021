import type { Delivery } from './delivery.js'

/** The deliveries that are held, by the key of their stream and the id of their entry. */
export class DeliveryIndex {
  readonly #byKey = new Map<string, Map<string, Delivery>>()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Deliveries of the stream with this key. */
  sizeOf(key: string): number {
    return this.#byKey.get(key)?.size ?? 0
  }

  get(key: string, id: string): Delivery | undefined {
    return this.#byKey.get(key)?.get(id)
  }

  /** Of each stream in the order of arrival. */
  *values(): Generator<Delivery, void> {
    for (const deliveries of this.#byKey.values()) yield* deliveries.values()
  }

  add(delivery: Delivery): void {
    const { key, id } = delivery
    const deliveries = this.#byKey.get(key)
    if (deliveries) deliveries.set(id, delivery)
    else this.#byKey.set(key, new Map([[id, delivery]]))
    this.#size += 1
  }

  remove({ key, id }: Delivery): void {
    const deliveries = this.#byKey.get(key)
    if (!deliveries?.delete(id)) return
    this.#size -= 1
    if (deliveries.size === 0) this.#byKey.delete(key)
  }
}
