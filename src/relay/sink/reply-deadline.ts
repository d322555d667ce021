/** No reply for so long, in milliseconds: the connection counts as lost. */
const MIN_DEADLINE_MS = 5_000
/** On a link that is too slow for a batch the deadline doubles up to this, one timeout after the other. */
const MAX_DEADLINE_MS = 120_000

/** How long a batch may wait for its reply: on a slow link twice as long as a reply takes there. */
export class ReplyDeadline {
  #milliseconds = MIN_DEADLINE_MS
  #repliedAt = 0

  get milliseconds(): number {
    return this.#milliseconds
  }

  /** For the commands of a connection on a slow link, in milliseconds; undefined: the usual one. */
  get commandTimeout(): number | undefined {
    return this.#milliseconds > MIN_DEADLINE_MS ? MAX_DEADLINE_MS : undefined
  }

  isPast(sentAt: number, now: number): boolean {
    return now - this.#waitingSince(sentAt) > this.#milliseconds
  }

  replied(sentAt: number, now: number): void {
    const took = now - this.#waitingSince(sentAt)
    this.#milliseconds = Math.max(MIN_DEADLINE_MS, Math.min(this.#milliseconds, 2 * took))
    this.#repliedAt = now
  }

  timedOut(): void {
    this.#milliseconds = Math.min(this.#milliseconds * 2, MAX_DEADLINE_MS)
  }

  /** Replies arrive in order: a batch waits for its own only since the reply to the one before it. */
  #waitingSince(sentAt: number): number {
    return Math.max(sentAt, this.#repliedAt)
  }
}
