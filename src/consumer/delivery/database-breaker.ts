import type { ConsumerLogger } from '../options.js'
import { exponential } from './retry-policy.js'

const pauseOf = exponential(200, 10_000)
const SAY_AGAIN_AFTER = 30_000

/**
 * Open while the database cannot be used: nothing is started. After a pause, longer each time, it closes and events are tried
 * again.
 */
export class DatabaseBreaker {
  readonly #log: ConsumerLogger
  readonly #onRetry: () => void
  #opened = 0
  #timer: NodeJS.Timeout | undefined
  #saidAt: number | undefined

  constructor(log: ConsumerLogger, onRetry: () => void) {
    this.#log = log
    this.#onRetry = onRetry
  }

  get isOpen(): boolean {
    return this.#timer !== undefined
  }

  open(cause: unknown): void {
    if (this.#timer) return
    this.#opened += 1
    // With full jitter it might be none at all.
    const pause = 100 + pauseOf(this.#opened)
    const now = performance.now()
    if (this.#saidAt === undefined || now - this.#saidAt > SAY_AGAIN_AFTER) {
      this.#saidAt = now
      this.#log.warn({ err: cause }, 'the database cannot be used; the consumer continues once it can')
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#onRetry()
    }, pause)
  }

  /** Something was committed. */
  close(): void {
    if (this.#opened === 0) return
    this.#opened = 0
    this.#saidAt = undefined
    this.#log.info({}, 'the database can be used again')
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
