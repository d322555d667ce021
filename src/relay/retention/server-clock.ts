/** A difference that clocks of servers do not reach by themselves, in milliseconds. */
const MAX_DRIFT_MS = 600_000
/** For so long the clock is not trusted after it was set: a mistake is corrected by then. */
const DISTRUST_MS = 24 * 3_600_000

/**
 * Was the clock of the server set? Checkpoints bear its times: after a step forward all of them are old at once. Compared with the clock
 * of this process, which is never set. Pure.
 */
export class ServerClock {
  #offset: number | undefined
  #distrustedUntil = Number.NEGATIVE_INFINITY

  /** `server`: milliseconds since 1970; `own`: of `performance.now()`. Is it trusted? */
  read(server: number, own: number): boolean {
    const offset = server - own
    if (this.#offset !== undefined && Math.abs(offset - this.#offset) > MAX_DRIFT_MS) {
      this.#distrustedUntil = own + DISTRUST_MS
    }
    this.#offset = offset
    return own >= this.#distrustedUntil
  }
}
