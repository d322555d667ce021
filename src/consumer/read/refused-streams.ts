import { backoff } from '../../base/backoff.js'

/** Streams whose reads Redis refuses. Each is asked again after a pause of its own, and the others are read meanwhile. */
export class RefusedStreams {
  readonly #refused = new Map<string, { failures: number; until: number }>()

  /** By the key of the stream. */
  add(key: string): void {
    const failures = 1 + (this.#refused.get(key)?.failures ?? 0)
    this.#refused.set(key, { failures, until: performance.now() + backoff(failures, 50, 2_000) })
  }

  /** It has answered. */
  delete(key: string): void {
    this.#refused.delete(key)
  }

  has(key: string): boolean {
    return this.#refused.has(key)
  }

  /** It is not to be asked now. */
  isPaused(key: string): boolean {
    return (this.#refused.get(key)?.until ?? 0) > performance.now()
  }

  /** Milliseconds until the next pause is over; undefined where no stream is paused. */
  get nextMs(): number | undefined {
    const now = performance.now()
    const left = [...this.#refused.values()].map(({ until }) => until - now).filter((milliseconds) => milliseconds > 0)
    return left.length === 0 ? undefined : Math.min(...left)
  }
}
