import { backoff, pause } from '../base/backoff.js'
import { OutriderError } from '../base/failure.js'
import type { Config } from '../config/schema.js'
import { classifyPostgres } from '../postgres/client/errors.js'
import { isOwnOutbox } from '../postgres/state/repair-state.js'
import { BulkLimitLoweredError } from '../redis/client/bulk-limit.js'
import { classifyRedis } from '../redis/client/errors.js'
import type { HealthStatus } from '../telemetry/http.js'
import type { Logger } from '../telemetry/log.js'
import type { Metrics, Role } from '../telemetry/metrics.js'
import { GapError, HaltError, isUndecodable, RedisFaultError, RepairedError, UnsettledError } from './errors.js'
import { repairsByItself } from './repair/repair-plan.js'
import { RepairPause } from './repair-pause.js'
import { ServerClock } from './retention/server-clock.js'
import { SetupMissingError } from './schema-check.js'
import { Session } from './session.js'
import { LossError } from './sink/loss.js'
import { ColumnMissingError } from './source/row-router.js'
import { Steadiness } from './steadiness.js'

/**
 * The roles:
 *
 * starting  connects, or will connect again soon after a fault, or waits for `outrider setup`
 * standby   another relay is active; this one waits for its lock
 * active    holds the lock; `state` says whether events flow or what holds them up
 * halted    an operator has to act; looked at again from time to time
 * stopping  drains after a signal
 *
 * Ready are active and standby, whatever Redis does: a relay that waits for Redis is not helped by a restart.
 */

/** The least pause between a session that found a gap and the one that repairs it, in milliseconds. */
const BEFORE_REPAIR = 200
/** How soon a halted relay looks again, in milliseconds. */
const LOOK_AGAIN = 3_000
/** A session that streamed so long, in milliseconds, was a good one: the next fault begins with a short pause again. */
const GOOD_SESSION = 10_000

const NOT_REPAIRED = 'gaps of a mapped table are not repaired: the relay halts at each of them'

/** Session after session, until it is stopped. Nothing that a server does ends it. */
export class Relay {
  readonly #config: Config
  readonly #log: Logger
  readonly #metrics: Metrics
  readonly #stop = new AbortController()
  readonly #steadiness = new Steadiness(GOOD_SESSION)
  readonly #repairPause = new RepairPause()
  #session: Session | undefined
  /** What Redis takes, as a session has learned it: the next one reads rows before Redis answers. */
  readonly #redisLimit = { bytes: Number.POSITIVE_INFINITY }
  readonly #serverClock = new ServerClock()
  /** Reports that the session streams, once it has for long enough. */
  #held: NodeJS.Timeout | undefined
  #status: HealthStatus = { role: 'starting', state: 'starting', ready: false }

  constructor(config: Config, log: Logger, metrics: Metrics) {
    this.#config = config
    this.#log = log
    this.#metrics = metrics
    metrics.watchInflight(() => this.#session?.inflight ?? { events: 0, bytes: 0, oldestSeconds: 0 })
  }

  get status(): HealthStatus {
    return this.#status
  }

  /** Resolves after `stop`. */
  async run(): Promise<void> {
    const { signal } = this.#stop
    const { onGap, outbox } = this.#config
    if (onGap === 'repair' && !isOwnOutbox(outbox)) this.#log.info({ table: outbox.table }, NOT_REPAIRED)
    for (let attempt = 1; !signal.aborted; attempt++) {
      const began = performance.now()
      try {
        this.#session = new Session({
          config: this.#config,
          log: this.#log,
          metrics: this.#metrics,
          redisLimit: this.#redisLimit,
          serverClock: this.#serverClock,
          report: (role, state, reason, message) => this.#sessionReports(role, state, reason, message),
        })
        await this.#session.run()
      } catch (error) {
        if (signal.aborted) break
        const hasRepaired = this.#repairPause.ended(performance.now())
        if (await this.#repairs(error)) continue
        const known = classifySessionError(error)
        this.#steadiness.ended(performance.now(), known.halt)
        this.#metrics.errors.inc({ target: known.target, code: known.reason })
        this.#report(
          known.halt ? 'halted' : 'starting',
          known.halt ? 'halted' : error instanceof SetupMissingError ? 'waiting' : 'reconnecting',
          known.reason,
          known.message,
        )
        if (known.bug) this.#log.error({ err: error }, 'unexpected error')
        if (performance.now() - began > GOOD_SESSION) attempt = 1
        const usual = known.halt ? LOOK_AGAIN : backoff(attempt, 100, 5_000)
        await pause(hasRepaired ? Math.max(usual, this.#repairPause.milliseconds) : usual, signal)
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

  /** Does the next session repair what ended this one, or stream after it has repaired? Waits before a repair. */
  async #repairs(error: unknown): Promise<boolean> {
    if (error instanceof RepairedError) return true
    const found = findingOf(error, this.#config)
    if (found === undefined) return false
    const wait = Math.max(BEFORE_REPAIR, this.#repairPause.milliseconds)
    this.#metrics.errors.inc({ target: 'outrider', code: found.reason })
    this.#report('starting', 'repairing', found.reason, `${found.finding} ${beginning(wait)}`)
    await pause(wait, this.#stop.signal)
    return true
  }

  #sessionReports(role: Role, state: string, reason?: string, message?: string): void {
    if (state === 'repairing') this.#repairPause.repairing()
    if (state === 'streaming') this.#repairPause.streaming(performance.now())
    this.#report(role, state, reason, message)
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

interface SessionErrorClass {
  target: 'postgres' | 'redis' | 'outrider'
  halt: boolean
  reason: string
  message: string
  /** No one foresaw it: the stack goes into the log. */
  bug: boolean
}

/** What the next session repairs; undefined: nothing. */
function findingOf(error: unknown, config: Config): { reason: string; finding: string } | undefined {
  if (error instanceof UnsettledError) return { reason: error.reason, finding: error.message }
  return error instanceof GapError && repairsByItself(config, error.reason) ? error : undefined
}

/** `wait`: milliseconds. */
const beginning = (wait: number): string =>
  wait < 1_000
    ? 'The repair from the outbox begins now.'
    : `The repair from the outbox begins in ${Math.ceil(wait / 1_000)} s: the pause grows while repairs follow each other.`

/** What ended a session, and what follows. */
export function classifySessionError(error: unknown): SessionErrorClass {
  const { message } = error as Error
  const known = { message, bug: false }
  if (error instanceof HaltError) return { ...known, target: 'outrider', halt: true, reason: error.reason }
  if (error instanceof SetupMissingError) return { ...known, target: 'outrider', halt: false, reason: error.reason }
  if (error instanceof ColumnMissingError) return { ...known, target: 'postgres', halt: true, reason: 'column_missing' }
  if (error instanceof BulkLimitLoweredError)
    return { ...known, target: 'redis', halt: false, reason: 'redis_bulk_length' }
  if (error instanceof RedisFaultError) {
    return { ...known, target: 'redis', halt: false, reason: classifyRedis(message).reason }
  }
  if (error instanceof LossError) return { ...known, target: 'redis', halt: false, reason: 'redis_behind' }
  const cause = error instanceof OutriderError && error.cause instanceof Error ? error.cause : error
  const { code, severity } = cause as { code?: string; severity?: string }
  if (error instanceof OutriderError && error.cause === undefined) {
    return { ...known, target: 'outrider', halt: true, reason: 'setup_differs' }
  }
  if (code === undefined && severity === undefined && (cause as Error).name !== 'Error') {
    return { ...known, target: 'outrider', halt: true, reason: 'internal', bug: true }
  }
  const { policy, reason } = classifyPostgres(code)
  // Before 18 the plugin looks for the publication in the catalogue of the time of each row, and fails where it was missing.
  if (isUndecodable(cause)) {
    known.message = `${message}, found in WAL from a time when it was missing. This version of Postgres cannot decode past that, also once the publication is there again. With onGap: repair the relay creates a new slot and puts back the rows of outrider.outbox. Otherwise \`outrider adopt\` starts a new lineage and says which events it leaves out.`
    return { ...known, target: 'postgres', halt: true, reason: 'publication_undecodable' }
  }
  if (reason === 'setup_missing' || reason === 'postgres_privilege') {
    known.message = `${message}. \`outrider check\` says what is missing.`
  }
  return { ...known, target: 'postgres', halt: policy === 'halt', reason, bug: reason === 'postgres_unknown' }
}
