import { EventEmitter, once } from 'node:events'

/** In place of a transaction: the event was asked for, and no position of the slot waits for it. */
export const REQUESTED = -1

/** Counts the events that a request has handed to the publisher. */
export class RequestedEvents {
  #left = 0
  #rejected = 0
  readonly #emitter = new EventEmitter()

  /** So many became incidents. */
  get rejected(): number {
    return this.#rejected
  }

  handedOn(count: number): void {
    this.#left += count
  }

  /** They are in their streams, or incidents. */
  done(count: number): void {
    this.#left -= count
    if (this.#left === 0) this.#emitter.emit('settled')
  }

  reject(count: number): void {
    this.#rejected += count
  }

  /** Until none is on its way. Rejects when the signal aborts. */
  async settled(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    while (this.#left > 0) await once(this.#emitter, 'settled', { signal })
  }
}
