export interface BlockedReason {
  reason: string
  message: string
}

export interface BlockedStateOptions {
  /** Aborted when the session ends: a round that was under way reports nothing then. */
  signal: AbortSignal
  report(state: 'starting' | 'streaming' | 'blocked', reason?: string, message?: string): void
}

/**
 * Reports what the session does. Three things can block it, each by itself; the first of them is reported:
 *
 * redis       refuses to take events
 * durability  Redis does not keep events safely enough for them to be confirmed
 * postgres    holds back what it decoded
 */
export class BlockedState {
  readonly #options: BlockedStateOptions
  #redis: BlockedReason | undefined
  #durability: BlockedReason | undefined
  #postgres: BlockedReason | undefined
  #isStreaming = false

  constructor(options: BlockedStateOptions) {
    this.#options = options
  }

  /** Every saved head is taken over: without a reason to be blocked, events flow. */
  setStreaming(): void {
    this.#isStreaming = true
    this.#report()
  }

  setRedis(blocked: BlockedReason | undefined): void {
    this.#redis = blocked
    this.#report()
  }

  setDurability(message: string | undefined): void {
    if (message === undefined && !this.#durability) return
    this.#durability = message === undefined ? undefined : { reason: 'durability', message }
    this.#report()
  }

  setPostgres(message: string | undefined): void {
    if (message === undefined && !this.#postgres) return
    this.#postgres = message === undefined ? undefined : { reason: 'standby_not_confirming', message }
    this.#report()
  }

  #report(): void {
    if (this.#options.signal.aborted) return
    const blocked = this.#redis ?? this.#durability ?? this.#postgres
    const state = blocked ? 'blocked' : this.#isStreaming ? 'streaming' : 'starting'
    this.#options.report(state, blocked?.reason, blocked?.message)
  }
}
