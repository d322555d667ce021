import { LossError } from './loss.js'
import type { PendingEvents } from './pending-events.js'
import type { PublisherOptions } from './publisher-options.js'
import { type RejectedRow, rejectEvent } from './rejection.js'
import type { StreamQueue } from './stream-queue.js'

export interface RowRejecterOptions extends Pick<PublisherOptions, 'session' | 'reject' | 'done' | 'observe'> {
  pending: PendingEvents
  /** The queue may continue. */
  pump(queue: StreamQueue): void
  lost(loss: LossError): void
  failed(error: unknown): void
}

/** Moves rows that cannot be published into incidents. */
export class RowRejecter {
  readonly #options: RowRejecterOptions
  #keeping: Promise<void> = Promise.resolve()

  constructor(options: RowRejecterOptions) {
    this.#options = options
  }

  /**
   * A row of an open stream. At or below the head when it is taken over, the row was published, or kept, by an earlier
   * session, whose limits and mapping may have been others. At the head's own position it must be the head's event: the
   * head may be a copy's.
   */
  decide(queue: StreamQueue, row: RejectedRow): void {
    const { position, eventId } = row.rejection
    const { head } = queue
    if (position > head.position) {
      this.keep(queue, [row])
      return
    }
    if (position === head.position) {
      if (eventId !== head.event) {
        const found = { head, session: this.#options.session, error: '' }
        this.#options.lost(new LossError('DIVERGED', queue.key, found, queue.acknowledged))
        return
      }
      queue.meet()
    }
    // Before its transaction is confirmed, the head that covers it is saved.
    queue.markMoved()
    const { observe, done, pending } = this.#options
    observe.known()
    done(row.transaction, 1)
    pending.count(-1, -row.bytes)
  }

  /** Keeps everything that waits in a refused queue. */
  keepAll(queue: StreamQueue): void {
    const rows = queue.takeUndecided()
    for (const batch of queue.takeBatches()) {
      const taken: RejectedRow[] = []
      // From the end: each event taken from the front would move all that is behind it.
      while (batch.events > 0) {
        const event = batch.take(batch.events - 1)
        taken.push(rejectEvent(queue.key, event, queue.refusal, batch.events === 0 ? batch.heldBytes : 0))
      }
      rows.push(...taken.reverse())
    }
    this.keep(queue, rows)
  }

  /** In turn, so that a broken Postgres cannot pile up statements. */
  keep(queue: StreamQueue | undefined, rows: RejectedRow[]): void {
    const { pending, reject, pump, failed } = this.#options
    queue?.countKeeping(rows.length)
    this.#keeping = this.#keeping.then(async () => {
      await reject(
        rows.map(({ rejection }) => rejection),
        rows.map(({ transaction }) => transaction),
      )
      pending.count(-rows.length, -rows.reduce((sum, { bytes }) => sum + bytes, 0))
      if (queue === undefined) return
      queue.countKeeping(-rows.length)
      pump(queue)
    })
    // If they cannot be kept the session ends; the next one reads the rows again.
    this.#keeping.catch(failed)
  }
}
