import { NACKED } from '../../redis/streams/group-replies.js'
import { TransactionFailedError } from '../inbox/database.js'
import { type ExecutionContext, inboxKeyOf } from '../inbox/execute.js'
import type { InboxKey } from '../inbox/inbox.js'
import { isCommitted } from '../inbox/outcome.js'
import type { Delivery } from './delivery.js'
import type { EntryMover } from './entry-mover.js'
import type { FailureHandler } from './failure-handler.js'
import type { HeldDeliveries } from './held-deliveries.js'
import { recordedKeyOf } from './recorded-key.js'

/** Deliveries without an outcome, after which an event is taken to kill its workers. */
export const MAX_DELIVERIES = 5

export interface CrashCheckParts {
  execution: ExecutionContext
  held: HeldDeliveries
  mover: EntryMover
  failures: FailureHandler
  /** Counts one more delivery. Whether it is still this worker's; else it was dealt with. */
  count(delivery: Delivery): Promise<boolean>
  /** Loads its payload. Whether it has one; else it was dealt with. */
  load(delivery: Delivery): Promise<boolean>
}

/** Ends events that were delivered too often without an outcome: they may kill their workers. */
export class CrashCheck {
  readonly #parts: CrashCheckParts
  /** Counted once more to ask for the key of their handler. */
  readonly #asked = new WeakSet<Delivery>()

  constructor(parts: CrashCheckParts) {
    this.#parts = parts
  }

  /** Dead-letters it, unless its workers only could not acknowledge it, or one of them still processes it. */
  async end(delivery: Delivery): Promise<void> {
    const { held, mover, failures } = this.#parts
    let isDone: boolean
    try {
      const key = await this.#keyOf(delivery)
      if (delivery.state !== 'running') return
      isDone = key !== undefined && (await this.#isCommitted(key))
    } catch (error) {
      failures.handle(delivery, TransactionFailedError.of(error))
      return
    }
    const deliveries = delivery.deliveryCount - (this.#asked.has(delivery) ? 1 : 0)
    if (isDone) held.finish(delivery, 'duplicate')
    else if (deliveries >= NACKED) mover.deadLetter(delivery, 'nacked', 'It was given up with XNACK FATAL')
    else mover.deadLetter(delivery, 'crashed', `Its worker ended without an outcome ${deliveries} times`)
  }

  #isCommitted(key: InboxKey): Promise<boolean> {
    const { database, group } = this.#parts.execution
    return isCommitted(database, group, key)
  }

  async #keyOf(delivery: Delivery): Promise<InboxKey | undefined> {
    const { route, event } = delivery
    return route.key ? await this.#ownKeyOf(delivery) : inboxKeyOf(route, event)
  }

  /**
   * The row in the inbox of an event whose handler has a `key`; undefined where it has none, or the delivery was dealt with. The code of the
   * team, `key` or a schema, may be what killed the workers. So one delivery more is counted before, and only its worker asks.
   */
  async #ownKeyOf(delivery: Delivery): Promise<InboxKey | undefined> {
    if (!this.#asked.has(delivery)) {
      if (delivery.deliveryCount > MAX_DELIVERIES || !(await this.#parts.count(delivery))) return undefined
      this.#asked.add(delivery)
    }
    if (!(await this.#parts.load(delivery))) return undefined
    return recordedKeyOf(delivery)
  }
}
