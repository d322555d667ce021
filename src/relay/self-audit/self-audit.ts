import type pg from 'pg'
import { every } from '../../base/interval.js'
import { endPostgres } from '../../postgres/client/connect.js'
import { lockLost } from '../../postgres/state/sessions.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedis } from '../../redis/client/errors.js'
import type { Logger } from '../../telemetry/log.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { StateStore } from '../confirm/state-store.js'
import { SideConnection } from '../side-connection.js'
import type { AuditSample, SampledRange, SampleReport } from './audit-sample.js'

/** Between two rounds, in milliseconds. */
const ROUND_EVERY_MS = 300_000
/** Findings that a line of the log names. */
const NAMED_FINDINGS = 10

export interface SelfAuditOptions {
  log: Logger
  metrics: Pick<Metrics, 'selfAudited' | 'errors'>
  stateStore: StateStore
  auditSample: AuditSample
  connectPostgres(): Promise<pg.Client>
  connectRedis(): Promise<RedisClient>
  /** Aborted when the session ends. */
  signal: AbortSignal
  intervalMs?: number
  random?(): number
}

/**
 * Compares some rows of a minute with the streams, now and then. Rows with findings are compared again in the next round, until nothing is
 * found: what two rounds find in a row is no coincidence. Nothing of it ends the session.
 */
export class SelfAudit {
  readonly #options: SelfAuditOptions
  readonly #redis: SideConnection
  #range: SampledRange | undefined
  /** Rounds with findings, one after the other. */
  #rounds = 0
  #isRunning = false
  #said = ''

  constructor(options: SelfAuditOptions) {
    this.#options = options
    this.#redis = new SideConnection({
      connect: options.connectRedis,
      isHarmless: (error) => (error as Error).name === 'ReplyError',
    })
  }

  /** To be called once all heads are taken over. */
  start(): void {
    const { intervalMs = ROUND_EVERY_MS, signal } = this.#options
    signal.addEventListener('abort', () => this.#redis.close(), { once: true })
    every(intervalMs, () => void this.#look(), signal)
  }

  async #look(): Promise<void> {
    if (this.#isRunning) return
    this.#isRunning = true
    try {
      const report = await this.#round()
      if (report) this.#report(report)
      this.#said = ''
    } catch (error) {
      this.#failed(error as Error)
    } finally {
      this.#isRunning = false
    }
  }

  async #round(): Promise<SampleReport | undefined> {
    const { auditSample, connectPostgres, random = Math.random, signal, stateStore } = this.#options
    const postgres = await connectPostgres()
    const breakOff = () => postgres.connection.stream.destroy()
    signal.addEventListener('abort', breakOff, { once: true })
    try {
      // A connection that was made by name may lead to another server.
      if (!(await stateStore.holdsLock(postgres))) throw lockLost()
      const { session } = stateStore.own
      const range = this.#range
      return await this.#redis.use((redis) =>
        auditSample({ ...{ postgres, redis, session, range, random, signal }, lineage: stateStore.lineage }),
      )
    } finally {
      signal.removeEventListener('abort', breakOff)
      await endPostgres(postgres)
    }
  }

  #report({ range, rows, findings }: SampleReport): void {
    const { log, metrics } = this.#options
    const counts = { missing: 0, extra: 0, altered: 0 }
    for (const { kind } of findings) counts[kind] += 1
    this.#rounds = findings.length > 0 ? this.#rounds + 1 : 0
    this.#range = findings.length > 0 ? range : undefined
    metrics.selfAudited({ rows, rounds: this.#rounds, ...counts })
    if (findings.length === 0) return
    const command = `outrider audit --since ${range.since.toISOString()}`
    const fields = { rows, rounds: this.#rounds, ...counts, findings: findings.slice(0, NAMED_FINDINGS), command }
    log.warn(fields, `self-audit found differences between the outbox and the streams: run \`${command}\``)
  }

  #failed(error: Error): void {
    const { log, metrics, signal } = this.#options
    if (signal.aborted) return
    const isRefusal = error.name === 'ReplyError'
    const code = isRefusal ? classifyRedis(error.message).reason : 'self_audit'
    metrics.errors.inc({ target: isRefusal ? 'redis' : 'outrider', code })
    if (this.#said === error.message) return
    this.#said = error.message
    log.warn({ err: error }, 'self-audit failed, retrying')
  }
}
