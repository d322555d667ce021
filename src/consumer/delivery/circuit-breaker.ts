import { exponential } from '../retry.js'

/** Different events whose attempts have failed since one has succeeded. One event that always fails opens no breaker. */
const MAX_FAILURES = 10

/** Between two probes of one handler. */
const probePause = exponential(500, 30_000)

export interface BreakerEvents {
  onOpen(cause: Error): void
  /** `openMs`: how long it was open. */
  onClose(openMs: number): void
  /** A probe may begin. */
  onProbe(): void
}

/**
 * The circuit breaker of one handler.
 *
 *     closed ── 10 events in a row fail ──→ open ── pause over ──→ probing one event
 *       ↑                                     ↑                       │      │
 *       │                                     └────── it fails ───────┘      │
 *       └──────────────────────── it succeeds ───────────────────────────────┘
 *
 * While it is open only the probe begins, so only the probe counts as an attempt. The pauses grow up to 30 s.
 */
export class CircuitBreaker<Probe extends object> {
  readonly #events: BreakerEvents
  /** Ids of those that have failed since one succeeded. */
  readonly #failed = new Set<string>()
  #openedAt: number | undefined
  #failedProbes = 0
  #timer: NodeJS.Timeout | undefined
  #probe: Probe | undefined
  #stopped = false

  constructor(events: BreakerEvents) {
    this.#events = events
  }

  get isOpen(): boolean {
    return this.#openedAt !== undefined
  }

  /** Since it opened; 0 while it is closed. */
  get openMs(): number {
    return this.#openedAt === undefined ? 0 : performance.now() - this.#openedAt
  }

  /** Whether one event may be tried. */
  get mayProbe(): boolean {
    return this.isOpen && this.#timer === undefined && this.#probe === undefined && !this.#stopped
  }

  isProbe(probe: Probe): boolean {
    return this.#probe === probe
  }

  begin(probe: Probe): void {
    this.#probe = probe
  }

  /** An attempt has failed. While it is open, call this of the probe alone. */
  failed(id: string, cause: Error): void {
    if (this.isOpen) {
      this.#failedProbes += 1
      this.#pause()
      return
    }
    this.#failed.add(id)
    if (this.#failed.size < MAX_FAILURES) return
    this.#openedAt = performance.now()
    this.#events.onOpen(cause)
    this.#pause()
  }

  succeeded(): void {
    if (this.#failed.size > 0) this.#failed.clear()
    if (!this.isOpen) return
    const { openMs } = this
    this.#openedAt = undefined
    this.#failedProbes = 0
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#events.onClose(openMs)
  }

  /** The call of a probe is over. Where it says nothing of the handler, another event may be tried at once. */
  end(probe: Probe): void {
    if (this.#probe === probe) this.#probe = undefined
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #pause(): void {
    clearTimeout(this.#timer)
    if (this.#stopped) return
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        this.#events.onProbe()
      },
      probePause(this.#failedProbes + 1),
    )
  }
}
