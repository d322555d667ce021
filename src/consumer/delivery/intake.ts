import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { ClaimedEntry, StreamEntry } from '../../redis/streams/group-replies.js'
import type { HandlerRegistry } from '../handler-registry.js'
import type { ConsumerMetrics } from '../metrics.js'
import type { ConsumerLogger } from '../options.js'
import type { Breakers } from './breakers.js'
import { type Delivery, deliveryOf } from './delivery.js'
import type { EntryMover } from './entry-mover.js'
import type { HeldDeliveries } from './held-deliveries.js'
import { MAX_HELD_WAIT_MS } from './limits.js'
import type { Payloads } from './payloads.js'
import type { Scheduler } from './scheduler.js'
import type { Settler } from './settler.js'

export interface IntakeParts {
  ordered: boolean
  routes: HandlerRegistry
  metrics: ConsumerMetrics
  log: ConsumerLogger
  scheduler: Scheduler
  payloads: Payloads
  held: HeldDeliveries
  settler: Settler
  mover: EntryMover
  breakers: Breakers
}

/** How long at least an event is set aside because its handler fails, in milliseconds. */
const MIN_SET_ASIDE_MS = 60_000

/** Makes deliveries of the entries that Redis delivers, and drops those whose entry was trimmed. */
export class Intake {
  readonly #parts: IntakeParts

  constructor(parts: IntakeParts) {
    this.#parts = parts
  }

  /** Entries that were delivered to this consumer for the first time. */
  receive(group: ConsumerGroup, entries: readonly StreamEntry[]): void {
    const { routes, ordered } = this.#parts
    for (const entry of entries) {
      // Redis was put back to an earlier state: what it delivers again may still be here.
      if (this.has(group, entry.id)) continue
      this.#add(deliveryOf(group, entry, routes, ordered))
    }
  }

  /** Entries that were pending, with another consumer or with this one. */
  adopt(group: ConsumerGroup, entries: readonly ClaimedEntry[]): void {
    const { routes, ordered } = this.#parts
    for (const { id, fields, size, deliveryCount, attempts } of entries) {
      if (this.has(group, id)) {
        if (!fields) this.deleted(group, id)
      } else if (fields) {
        this.#add(deliveryOf(group, { id, fields, size }, routes, ordered, { deliveryCount, attempts }))
      } else {
        this.trimmed(group, id)
      }
    }
  }

  /** An entry is in the stream no more. A call that runs may still get its payload from a reply under way. */
  deleted(group: ConsumerGroup, id: string): void {
    const delivery = this.#parts.scheduler.get(group.key, id)
    if (!delivery || delivery.fields || delivery.state === 'running') return
    this.trimmed(group, delivery.origin)
    this.#parts.held.drop(delivery)
  }

  /** An entry was trimmed, and its payload is not here. */
  trimmed(group: ConsumerGroup, entry: string): void {
    this.#parts.settler.trimmed(group, entry)
  }

  /** Held, or done while Redis does not know it yet. */
  has(group: ConsumerGroup, id: string): boolean {
    return this.#parts.scheduler.get(group.key, id) !== undefined || this.#parts.settler.isDone(group, id)
  }

  #add(delivery: Delivery): void {
    const { held, payloads, breakers, mover } = this.#parts
    held.add(delivery)
    const openMs = breakers.openMs(delivery.route)
    if (openMs === undefined) return
    payloads.spare(delivery)
    if (!breakers.isSurplus(delivery)) return
    // As long again as it has been open: what fails for long is moved to and fro less often.
    const milliseconds = Math.min(MAX_HELD_WAIT_MS, Math.max(MIN_SET_ASIDE_MS, openMs))
    delivery.due = Math.max(delivery.due, Date.now() + milliseconds)
    void mover.setAside(delivery, 'The circuit breaker of its handler is open', () => held.wait(delivery, milliseconds))
  }
}
