const FIRST_MS = 1_000
const MAX_MS = 60_000
/** A session that streamed so long, in milliseconds: what is repaired after it begins with no pause again. */
const STEADY_MS = 60_000

/**
 * How long to wait before a gap is repaired once more. A repair reads all of the streams and the table, so one that fails, or is followed
 * by the next gap, must not begin again every few seconds. Counts sessions that repaired, until one has streamed for long enough.
 * Pure; times are milliseconds of a clock that only rises.
 */
export class RepairPause {
  #repairs = 0
  #isRepairing = false
  #streamingSince: number | undefined

  /** A session repairs. */
  repairing(): void {
    this.#isRepairing = true
  }

  /** A session began to stream, or streams still. */
  streaming(now: number): void {
    this.#streamingSince ??= now
  }

  /** A session ended. Returns whether it repaired. */
  ended(now: number): boolean {
    const repaired = this.#isRepairing
    if (this.#streamingSince !== undefined && now - this.#streamingSince >= STEADY_MS) this.#repairs = 0
    if (repaired) this.#repairs += 1
    this.#isRepairing = false
    this.#streamingSince = undefined
    return repaired
  }

  /** Before the next repair; 0: none came before it. */
  get milliseconds(): number {
    return this.#repairs === 0 ? 0 : Math.min(MAX_MS, FIRST_MS * 2 ** (this.#repairs - 1))
  }
}
