/**
 * Tells a relay that works from one that fails again soon after it began to stream. The first is reported as streaming at
 * once; the second only when it has streamed for a while, so that /readyz does not flip with each attempt. Pure; times are
 * milliseconds of a clock that only rises.
 */
export class Steadiness {
  readonly #steadyAfterMs: number
  #streamingSince: number | undefined
  /** Sessions in a row that streamed, and not for long. */
  #short = 0
  #halted = false

  constructor(steadyAfterMs: number) {
    this.#steadyAfterMs = steadyAfterMs
  }

  /** A session began to stream, or streams still. */
  streaming(now: number): void {
    this.#streamingSince ??= now
  }

  /** A session ended. What never streamed says nothing about how long the next one will. */
  ended(now: number, halted: boolean): void {
    if (this.#streamingSince === undefined) return
    const steady = now - this.#streamingSince >= this.#steadyAfterMs
    this.#short = steady ? 0 : this.#short + 1
    this.#halted = halted && !steady
    this.#streamingSince = undefined
  }

  /**
   * For how many milliseconds the last reason is still to be reported, while a session streams or begins; 0: no longer.
   * One short session may be a server that was restarted twice; two are a loop, and so is one that ended in a halt.
   */
  holdsFor(now: number): number {
    if (!this.#halted && this.#short < 2) return 0
    return Math.max(0, this.#steadyAfterMs - (now - (this.#streamingSince ?? now)))
  }
}
