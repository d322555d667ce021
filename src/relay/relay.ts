import { backoff, pause } from '../backoff.js'
import type { Config } from '../config/schema.js'
import { Failure } from '../failure.js'
import { classifyPostgres } from '../postgres/errors.js'
import { BulkLimitLowered } from '../redis/bulk-limit.js'
import type { Status } from '../telemetry/http.js'
import type { Logger } from '../telemetry/log.js'
import type { Metrics, Role } from '../telemetry/metrics.js'
import { Halt } from './halt.js'
import { Loss } from './loss.js'
import { ColumnMissing } from './route.js'
import { SetupAwaited } from './schema.js'
import { Session } from './session.js'
import { Steadiness } from './steadiness.js'

/**
 * The roles:
 *
 * starting  connects, or will connect again soon after a fault, or waits for `outrider setup`
 * standby   another relay is active; this one waits for its lock
 * active    holds the lock; `state` says whether events flow or what holds them up
 * halted    somebody has to act; looked at again from time to time
 * stopping  drains after a signal
 *
 * Ready are active and standby, whatever Redis does: a relay that waits for Redis is not helped by a restart.
 */

/** How soon a halted relay looks again, in milliseconds. */
const LOOK_AGAIN = 3_000
/** A session that streamed so long, in milliseconds, was a good one: the next fault begins with a short pause again. */
const GOOD_SESSION = 10_000

/** Session after session, until it is stopped. Nothing that a server does ends it. */
export class Relay {
  readonly #config: Config
  readonly #log: Logger
  readonly #metrics: Metrics
  readonly #stop = new AbortController()
  readonly #steadiness = new Steadiness(GOOD_SESSION)
  #session: Session | undefined
  /** What Redis takes, as a session has learned it: the next one reads rows before Redis answers. */
  readonly #redisLimit = { bytes: Number.POSITIVE_INFINITY }
  /** Reports that the session streams, once it has for long enough. */
  #held: NodeJS.Timeout | undefined
  #status: Status = { role: 'starting', state: 'starting', ready: false }

  constructor(config: Config, log: Logger, metrics: Metrics) {
    this.#config = config
    this.#log = log
    this.#metrics = metrics
    metrics.watchInflight(() => this.#session?.inflight ?? { events: 0, bytes: 0, oldestSeconds: 0 })
  }

  get status(): Status {
    return this.#status
  }

  /** Resolves after `stop`. */
  async run(): Promise<void> {
    const { signal } = this.#stop
    for (let attempt = 1; !signal.aborted; attempt++) {
      const began = performance.now()
      try {
        this.#session = new Session({
          config: this.#config,
          log: this.#log,
          metrics: this.#metrics,
          redisLimit: this.#redisLimit,
          report: (role, state, reason, message) => this.#report(role, state, reason, message),
        })
        await this.#session.run()
      } catch (error) {
        if (signal.aborted) break
        const verdict = judge(error)
        this.#steadiness.ended(performance.now(), verdict.halt)
        this.#metrics.errors.inc({ target: verdict.target, code: verdict.reason })
        this.#report(
          verdict.halt ? 'halted' : 'starting',
          verdict.halt ? 'halted' : error instanceof SetupAwaited ? 'waiting' : 'reconnecting',
          verdict.reason,
          verdict.message,
        )
        if (verdict.bug) this.#log.error({ err: error }, 'unexpected error')
        if (performance.now() - began > GOOD_SESSION) attempt = 1
        await pause(verdict.halt ? LOOK_AGAIN : backoff(attempt, 100, 5_000), signal)
      }
    }
  }

  /** Drains and ends: everything that was read is appended and confirmed first, within the drain time-out. */
  async stop(): Promise<void> {
    if (this.#stop.signal.aborted) return
    this.#report('stopping', 'draining')
    this.#stop.abort()
    await this.#session?.stop(this.#config.drainTimeout)
  }

  #report(role: Role, state: string, reason?: string, message?: string): void {
    if (this.#stop.signal.aborted && role !== 'stopping') return
    const before = this.#status
    clearTimeout(this.#held)
    // Looking again is not being ready: what halted it may well still be there.
    if (before.role === 'halted' && state === 'starting') return
    if (this.#isHeld(role, state)) return
    this.#status = {
      role,
      state,
      ...(reason === undefined ? {} : { reason }),
      ...(message ? { message } : {}),
      ready: role === 'active' || role === 'standby',
    }
    this.#metrics.setRole(role, state, reason)
    if (before.role === role && before.state === state && before.reason === reason) return
    const level = role === 'halted' ? 'error' : reason === undefined ? 'info' : 'warn'
    this.#log[level]({ role, state, ...(reason && { reason }) }, message ? `${state}: ${message}` : state)
  }

  /** In a loop of sessions that fail soon, the last reason is reported until one has streamed for long enough. */
  #isHeld(role: Role, state: string): boolean {
    const now = performance.now()
    if (role !== 'active' || (state !== 'streaming' && state !== 'starting')) return false
    if (state === 'streaming') this.#steadiness.streaming(now)
    const left = this.#steadiness.holdsFor(now)
    if (left === 0) return false
    if (state === 'streaming') this.#held = setTimeout(() => this.#report(role, state), left)
    return true
  }
}

interface Verdict {
  target: 'postgres' | 'redis' | 'outrider'
  halt: boolean
  reason: string
  message: string
  /** Nobody foresaw it: the stack goes into the log. */
  bug: boolean
}

/** What ended a session, and what follows. */
export function judge(error: unknown): Verdict {
  const { message } = error as Error
  const known = { message, bug: false }
  if (error instanceof Halt) return { ...known, target: 'outrider', halt: true, reason: error.reason }
  if (error instanceof SetupAwaited) return { ...known, target: 'outrider', halt: false, reason: error.reason }
  if (error instanceof ColumnMissing) return { ...known, target: 'postgres', halt: true, reason: 'column_missing' }
  if (error instanceof BulkLimitLowered) return { ...known, target: 'redis', halt: false, reason: 'redis_bulk_length' }
  if (error instanceof Loss) return { ...known, target: 'redis', halt: false, reason: 'redis_behind' }
  const cause = error instanceof Failure && error.cause instanceof Error ? error.cause : error
  const { code, severity } = cause as { code?: string; severity?: string }
  if (error instanceof Failure && error.cause === undefined) {
    return { ...known, target: 'outrider', halt: true, reason: 'setup_differs' }
  }
  if (code === undefined && severity === undefined && (cause as Error).name !== 'Error') {
    return { ...known, target: 'outrider', halt: true, reason: 'internal', bug: true }
  }
  const { fate, reason } = classifyPostgres(code)
  // Before 18 the plugin looks for the publication in the catalogue of the time of each row, and fails where it was missing.
  if (code === '42704' && message.startsWith('publication ')) {
    known.message = `${message}, found in WAL from a time when it was missing. This version of Postgres cannot decode past that, also once the publication is there again. \`outrider adopt\` starts a new lineage and says which events it leaves out.`
    return { ...known, target: 'postgres', halt: true, reason: 'publication_undecodable' }
  }
  if (reason === 'setup_missing') known.message = `${message}. \`outrider check\` says what is missing.`
  return { ...known, target: 'postgres', halt: fate === 'halt', reason, bug: reason === 'postgres_unknown' }
}
