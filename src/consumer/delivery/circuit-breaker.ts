import { exponential } from './retry-policy.js'

/** Events whose first attempt has failed since an event succeeded. So those that always fail open no breaker again and again. */
const MAX_FAILURES = 10

const MAX_PAUSE_MS = 30_000

/** Between two probes of one handler. */
const probePause = exponential(500, MAX_PAUSE_MS)

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
 *     closed ── 10 first attempts fail ───→ open ── pause over ──→ probing one event
 *       ↑                                     ↑                       │      │
 *       │                                     └────── it fails ───────┘      │
 *       └──────────────────────── it succeeds ───────────────────────────────┘
 *
 * While it is open only the probe begins, so only the probe counts as an attempt. The pauses grow up to 30 s. A probe that runs for
 * longer does not keep the next one from beginning: it may hang.
 */
export class CircuitBreaker<Probe extends object> {
  readonly #events: BreakerEvents
  /** First attempts that have failed since an event succeeded. */
  #failures = 0
  #openedAt: number | undefined
  #failedProbes = 0
  #timer: NodeJS.Timeout | undefined
  /** Those that run. */
  readonly #probes = new Set<Probe>()
  /** The last of them, until it has run for too long. */
  #probe: Probe | undefined
  #overrun: NodeJS.Timeout | undefined
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
    return this.isOpen && this.#timer === undefined && !this.isProbing && !this.#stopped
  }

  /** Whether a probe runs that the next one waits for. */
  get isProbing(): boolean {
    return this.#probe !== undefined
  }

  isProbe(probe: Probe): boolean {
    return this.#probes.has(probe)
  }

  begin(probe: Probe): void {
    this.#probes.add(probe)
    this.#probe = probe
    clearTimeout(this.#overrun)
    this.#overrun = setTimeout(() => {
      this.#probe = undefined
      if (!this.#stopped) this.#events.onProbe()
    }, MAX_PAUSE_MS)
  }

  /** The first attempt of an event has failed; while it is open, any attempt of the probe. */
  failed(cause: Error): void {
    if (this.#stopped) return
    if (this.isOpen) {
      this.#failedProbes += 1
      this.#pause()
      return
    }
    this.#failures += 1
    if (this.#failures < MAX_FAILURES) return
    this.#openedAt = performance.now()
    this.#events.onOpen(cause)
    this.#pause()
  }

  succeeded(): void {
    this.#failures = 0
    if (!this.isOpen) return
    const { openMs } = this
    this.#openedAt = undefined
    this.#failedProbes = 0
    this.#probes.clear()
    this.#forget()
    this.#events.onClose(openMs)
  }

  /**
   * The call of a probe is over. `isGone`: its event has come to its end, and another may be tried at once. Else the next one waits, or
   * what ends neither well nor badly would run again without a pause.
   */
  end(probe: Probe, isGone: boolean): void {
    if (this.#probes.delete(probe) && !isGone && this.isOpen && !this.#timer) this.#pause()
    if (this.#probe !== probe) return
    this.#probe = undefined
    clearTimeout(this.#overrun)
  }

  stop(): void {
    this.#stopped = true
    this.#forget()
  }

  #forget(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#overrun)
    this.#timer = undefined
    this.#probe = undefined
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
