import type { ConsumerLogger } from './options.js'
import { exponential } from './retry.js'

const pauseOf = exponential(200, 10_000)
const SAY_AGAIN_AFTER = 30_000

/**
 * Closed while the database cannot be used, so that not every event finds out for itself: after a pause, longer each time,
 * events are tried again.
 */
export class Gate {
  readonly #log: ConsumerLogger
  readonly #onOpen: () => void
  #closures = 0
  #timer: NodeJS.Timeout | undefined
  #saidAt: number | undefined

  constructor(log: ConsumerLogger, onOpen: () => void) {
    this.#log = log
    this.#onOpen = onOpen
  }

  get closed(): boolean {
    return this.#timer !== undefined
  }

  close(cause: unknown): void {
    if (this.#timer) return
    this.#closures += 1
    // With full jitter it might be none at all.
    const pause = 100 + pauseOf(this.#closures)
    const now = performance.now()
    if (this.#saidAt === undefined || now - this.#saidAt > SAY_AGAIN_AFTER) {
      this.#saidAt = now
      this.#log.warn({ err: cause }, 'the database cannot be used; the consumer goes on once it can')
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#onOpen()
    }, pause)
  }

  /** Something was committed. */
  open(): void {
    if (this.#closures === 0) return
    this.#closures = 0
    this.#saidAt = undefined
    this.#log.info({}, 'the database can be used again')
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
