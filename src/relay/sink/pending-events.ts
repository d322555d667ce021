import { EventEmitter, once } from 'node:events'

export interface PendingEventsObserver {
  /** Fewer events or bytes wait than before. */
  fewer(): void
  empty(): void
}

/** Events that wait or are in flight, and the bytes that they take in memory. */
export class PendingEvents {
  #events = 0
  #bytes = 0
  readonly #observer: PendingEventsObserver
  readonly #emitter = new EventEmitter()

  constructor(observer: PendingEventsObserver) {
    this.#observer = observer
  }

  get events(): number {
    return this.#events
  }

  get bytes(): number {
    return this.#bytes
  }

  /** One more event waits. */
  add(bytes: number): void {
    this.#events += 1
    this.#bytes += bytes
  }

  /** So many more wait; negative numbers when they no longer do. */
  count(events: number, bytes: number): void {
    this.#events += events
    this.#bytes += bytes
    if (bytes < 0 || events < 0) this.#observer.fewer()
    if (this.#events !== 0) return
    this.#observer.empty()
    this.#emitter.emit('empty')
  }

  /** Resolves with true when nothing waits, with false if the signal aborts before that. */
  async drain(signal: AbortSignal): Promise<boolean> {
    while (this.#events > 0 && !signal.aborted) await once(this.#emitter, 'empty', { signal }).catch(() => {})
    return this.#events === 0
  }
}
