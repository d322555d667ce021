import { setMaxListeners } from 'node:events'
import type pg from 'pg'
import { deadlineSignal } from '../base/deadline-signal.js'
import type { Config } from '../config/schema.js'
import { connectFailure, endPostgres, postgresOptions } from '../postgres/client/connect.js'
import { formatLsn, type Lsn } from '../postgres/client/lsn.js'
import { Replication } from '../postgres/replication/stream.js'
import type { Logger } from '../telemetry/log.js'
import type { Inflight, Metrics } from '../telemetry/metrics.js'
import { bootstrap } from './bootstrap.js'
import { connectStateStore, type StateStore } from './confirm/state-store.js'
import { HaltError, isUndecodable } from './errors.js'
import { undecodable } from './identity.js'
import { Pipeline } from './pipeline.js'
import { repairsByItself } from './repair/repair-plan.js'
import type { ServerClock } from './retention/server-clock.js'
import { newSession } from './sink/alive-key.js'
import { ForeignRowError } from './source/foreign-row.js'
import type { ReplicationQuery } from './source/leader-lock.js'
import { countIncidents } from './source/slot-monitor.js'
import { keepBusy, limitIdleTime, type Walsender } from './source/walsender-connection.js'
import { foreignRow } from './table-check.js'

export interface SessionOptions {
  config: Config
  log: Logger
  metrics: Metrics
  /** The limit of Redis for one row, in bytes: learned here, and kept for the sessions that follow. */
  redisLimit: { bytes: number }
  /** Kept for the sessions that follow. */
  serverClock: ServerClock
  /** What the relay is doing, for /readyz and the log. */
  report(role: 'standby' | 'active', state: string, reason?: string, message?: string): void
}

/**
 * One run as leader: a replication connection that takes the advisory lock and then streams, so that the lock and the
 * walsender die together. Crash-only: every fault on the side of Postgres ends it, and the next one begins from what the
 * slot has confirmed. Faults of Redis are the publisher's.
 */
export class Session {
  readonly #options: SessionOptions
  readonly #log: Logger
  readonly #id = newSession()
  readonly #beganAt = performance.now()
  readonly #ended = new AbortController()
  /** Aborted by `stop` and by the end. */
  readonly #leaving = new AbortController()
  #stopping = false
  #failure: unknown
  #connected = false
  #replication: Replication | undefined
  #postgres: pg.Client | undefined
  /** Known once the lineage is. */
  #stateStore: StateStore | undefined
  #pipeline: Pipeline | undefined

  constructor(options: SessionOptions) {
    this.#options = options
    this.#log = options.log.child({ session: this.#id })
    // One listener for each part of a session: many, and no leak.
    setMaxListeners(0, this.#ended.signal, this.#leaving.signal)
  }

  /** Rows in memory: received, not yet appended. */
  get inflight(): Inflight {
    return this.#pipeline?.inflight ?? { events: 0, bytes: 0, oldestSeconds: 0 }
  }

  /** Until it fails, or `stop`. Rejects with what ended it. */
  async run(): Promise<void> {
    const { config } = this.#options
    try {
      const replication = new Replication(await postgresOptions(config.postgres, `outrider ${config.slot}`))
      this.#replication = replication
      await replication.run(config.slot, config.publication, {
        prepare: (query) => this.#prepare(query, replication),
        message: (data, start, end) => this.#pipeline?.receiver.message(data, start, end),
        read: () => this.#pipeline?.receiver.read(),
        keepalive: (walEnd, replyRequested) => this.#pipeline?.keepalive(walEnd, replyRequested),
      })
    } catch (error) {
      this.#failure ??= this.#connected ? await this.#explain(error) : connectFailure(error, config.postgres)
    } finally {
      this.#end()
      await this.#leavePostgres()
    }
    if (this.#failure !== undefined && !this.#stopping) throw this.#failure
  }

  /** Stops reading, lets everything that was read be appended and confirmed, then closes. Within `timeout` milliseconds. */
  async stop(timeout: number): Promise<void> {
    this.#stopping = true
    this.#leaving.abort()
    if (this.#pipeline) {
      const drained = await this.#pipeline.drain(deadlineSignal(timeout, this.#ended.signal))
      this.#log.info({ drained, confirmed: formatLsn(this.#pipeline.confirmed) }, 'drained')
    }
    await this.#replication?.close()
    this.#end()
  }

  #fail(error: unknown): void {
    if (this.#ended.signal.aborted) return
    this.#failure ??= error
    this.#end()
  }

  #end(): void {
    this.#ended.abort()
    this.#leaving.abort()
    this.#pipeline?.close()
    this.#replication?.destroy()
  }

  async #prepare(query: ReplicationQuery, stream: Replication): Promise<Lsn> {
    this.#connected = true
    const walsender = await limitIdleTime(query)
    const failed = (error: unknown) => this.#fail(error)
    return keepBusy(query, walsender, failed, () => this.#lead(query, stream, walsender))
  }

  /** Resolves with where the stream begins. */
  async #lead(query: ReplicationQuery, stream: Replication, walsender: Walsender): Promise<Lsn> {
    const { report, ...options } = { ...this.#options, log: this.#log }
    const leadership = await bootstrap(query, {
      ...{ ...options, report, walsender, session: this.#id },
      leaving: this.#leaving.signal,
      ended: this.#ended.signal,
      connectPostgres: () => this.#connectPostgres(),
      lineageFound: (stateStore) => {
        this.#stateStore = stateStore
      },
    })
    this.#ended.signal.throwIfAborted()
    this.#pipeline = new Pipeline({
      ...{ ...options, leadership, stream, beganAt: this.#beganAt, signal: this.#ended.signal },
      report: (state, reason, message) => report('active', state, reason, message),
      failed: (error) => this.#fail(error),
    })
    this.#pipeline.start()
    return leadership.server.confirmed
  }

  async #connectPostgres(): Promise<pg.Client> {
    const { config } = this.#options
    const postgres = await connectStateStore(config.postgres, `outrider ${config.slot} state`)
    this.#postgres = postgres
    // When Postgres shuts down it ends ordinary connections first, and waits for walsenders: the session ends that one, too.
    postgres.on('error', (error) => this.#fail(error))
    postgres.on('end', () => this.#fail(new Error('Postgres closed the connection.')))
    return postgres
  }

  /** A row of another table, and WAL that cannot be decoded, are recorded before the session ends; the slot stays before them. */
  async #explain(error: unknown): Promise<unknown> {
    const stateStore = this.#stateStore
    if (!stateStore) return error
    const record = (work: (client: pg.Client) => Promise<Error>) => stateStore.inTurn(work).catch((cause) => cause)
    if (error instanceof ForeignRowError) return record((client) => foreignRow(client, stateStore.lineage, error))
    // A new slot begins behind it, and what lies before comes from the table.
    if (isUndecodable(error) && repairsByItself(this.#options.config, 'slot_lost')) {
      return record((client) => undecodable(client, stateStore.lineage, error))
    }
    return error
  }

  /**
   * The error that ended the session may be an incident: it is counted before the connection closes. The metrics of an
   * earlier session stay until this one has read its own, and are dropped if it never gets there.
   */
  async #leavePostgres(): Promise<void> {
    const { metrics } = this.#options
    const stateStore = this.#stateStore
    if (!stateStore) metrics.forget()
    else if (this.#failure instanceof HaltError) {
      await stateStore.inTurn((postgres) => countIncidents(postgres, stateStore.lineage, metrics)).catch(() => {})
    }
    if (this.#postgres) await endPostgres(this.#postgres)
  }
}
