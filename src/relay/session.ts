import { once } from 'node:events'
import type pg from 'pg'
import { pause } from '../backoff.js'
import { type Config, partitionsOf } from '../config/schema.js'
import { Envelope } from '../event/envelope.js'
import type { Head } from '../event/head.js'
import { partitionsKey } from '../event/names.js'
import { connectFailure, endPostgres, NO_TRANSACTION_TIMEOUT, postgresOptions } from '../postgres/connect.js'
import { currentLineage, type Lineage } from '../postgres/lineage.js'
import { formatLsn, type Lsn, parseLsn } from '../postgres/lsn.js'
import { fixPartitions, readPartitions } from '../postgres/partitions.js'
import { Replication } from '../postgres/replication.js'
import { parseTimelineHistory } from '../postgres/timeline.js'
import { BulkLimitLowered, readBulkLimit } from '../redis/bulk-limit.js'
import { BarrierBroken } from '../redis/durability.js'
import { connectPrimary } from '../redis/primary.js'
import type { Logger } from '../telemetry/log.js'
import type { Inflight, Metrics } from '../telemetry/metrics.js'
import { VERSION } from '../version.js'
import { Barrier } from './barrier.js'
import { countIncidents, measureSlot, watchCatalog } from './catalog.js'
import { Confirmer, type Pending } from './confirm.js'
import { ForeignRow } from './foreign-row.js'
import { Halt } from './halt.js'
import { verifyIdentity } from './identity.js'
import { connectLedger, Ledger } from './ledger.js'
import { type Query, readWalSenderTimeout, waitForLock } from './lock.js'
import { judgeLoss, type Loss } from './loss.js'
import { silenceLimit, statusInterval, worthConfirming } from './pace.js'
import { Progress } from './progress.js'
import { Publisher, type PublisherOptions } from './publisher.js'
import { Receiver } from './receiver.js'
import type { Rejection } from './rejection.js'
import { Router } from './route.js'
import { lineageMissing, verifySchema } from './schema.js'
import { AliveKey, newSession, renewsAliveKey } from './sink/alive-key.js'
import { closeGapsFoundAgain } from './sink/found-again.js'
import type { HeadOwnership } from './sink/head-ownership.js'
import { HeadTakeover } from './sink/head-takeover.js'
import { chainStart, isOfOlderTimeline, recordPhantom, type ServerWal } from './sink/server-wal.js'
import { foreignRow, requireConfiguredTable, skippedTables, verifyTable } from './table.js'
import { describeDecoding, observeWalsender, WALSENDER_LIMITS, WalsenderMonitor } from './walsender-monitor.js'

/**
 * One run as leader: a replication connection that takes the advisory lock and then streams, so that the lock and the
 * walsender die together. Crash-only: every fault on the side of Postgres ends it, and the next one begins from what the
 * slot has confirmed. Faults of Redis are the publisher's.
 */
export interface SessionOptions {
  config: Config
  log: Logger
  metrics: Metrics
  /** What Redis takes, in bytes: learned here, and kept for the sessions to come. */
  redisLimit: { bytes: number }
  /** What the relay is doing, for /readyz and the log. */
  report(role: 'standby' | 'active', state: string, reason?: string, message?: string): void
}

const CONFIRM_EVERY = 1_000
/** How long a stop waits for the last confirming, in milliseconds, once everything is appended. */
const LAST_CONFIRM = 1_000
const PROBE_EVERY = 1_000
const CATALOG_EVERY = 2_000
const WALSENDER_EVERY = 2_000

export class Session {
  readonly #options: SessionOptions
  readonly #log: Logger
  readonly #id = newSession()
  readonly #ended = new AbortController()
  readonly #progress = new Progress()
  readonly #timers: NodeJS.Timeout[] = []
  #failure: unknown
  /** Aborted by `stop` and by the end. */
  readonly #leaving = new AbortController()
  #stopping = false
  #replication!: Replication
  #postgres: pg.Client | undefined
  #ledger!: Ledger
  #lineage!: Lineage
  #publisher: Publisher | undefined
  #barrier: Barrier | undefined
  #confirmer!: Confirmer
  #server!: ServerWal
  #walSenderTimeout = 0
  #walsenderPid = 0
  #confirmedAt = performance.now()
  #taken: Lsn = 0n
  #paused = false
  #receiver: Receiver | undefined
  #round: Promise<void> | undefined
  #connected = false
  #watching = false
  #saidAliveRefused = false
  /** Every saved head was taken over. */
  #ownsHeads = false
  /** What Redis refuses, what it does not keep safely enough, what Postgres holds back: each holds something up. */
  #refusal: Hindrance | undefined
  #unsafe: Hindrance | undefined
  #held: Hindrance | undefined

  constructor(options: SessionOptions) {
    this.#options = options
    this.#log = options.log.child({ session: this.#id })
  }

  /** Until it fails, or `stop`. Rejects with what ended it. */
  async run(): Promise<void> {
    const { config } = this.#options
    try {
      this.#replication = new Replication(await postgresOptions(config.postgres, `outrider ${config.slot}`))
      const streaming = this.#replication.run(config.slot, config.publication, {
        prepare: (query) => this.#prepare(query),
        message: (data, start, end) => this.#receiver?.message(data, start, end),
        read: () => this.#receiver?.read(),
        keepalive: (walEnd, replyRequested) => this.#keepalive(walEnd, replyRequested),
      })
      await streaming
    } catch (error) {
      this.#failure ??= this.#connected ? await this.#explain(error) : connectFailure(error, config.postgres)
    } finally {
      this.#end()
      await this.#leavePostgres()
    }
    if (this.#failure !== undefined && !this.#stopping) throw this.#failure
  }

  /** A row of another table is recorded before the session ends; the slot stays before it. */
  async #explain(error: unknown): Promise<unknown> {
    if (!(error instanceof ForeignRow)) return error
    return this.#ledger.inTurn((client) => foreignRow(client, this.#lineage, error)).catch((cause) => cause)
  }

  /**
   * What ended the session may be an incident: it is counted before the connection goes. What an earlier session saw is
   * told until this one has looked, and not for good where it never gets there.
   */
  async #leavePostgres(): Promise<void> {
    const { metrics } = this.#options
    if (!this.#lineage) metrics.forget()
    if (!this.#postgres) return
    if (this.#failure instanceof Halt && this.#lineage) {
      await this.#ledger.inTurn((postgres) => countIncidents(postgres, this.#lineage, metrics)).catch(() => {})
    }
    await endPostgres(this.#postgres)
  }

  /** Stops reading, lets everything that was read arrive and be confirmed, then takes leave. Within `timeout` milliseconds. */
  async stop(timeout: number): Promise<void> {
    this.#stopping = true
    this.#leaving.abort()
    const deadline = AbortSignal.any([AbortSignal.timeout(timeout), this.#ended.signal])
    if (this.#receiver && this.#publisher) {
      this.#pause()
      const drained = await this.#publisher.drain(deadline)
      // A standby waits: what is not confirmed by then comes again there, and is recognised.
      const patience = AbortSignal.any([AbortSignal.timeout(LAST_CONFIRM), deadline])
      const impatient = once(patience, 'abort')
      while (drained && !patience.aborted && !this.#settled()) {
        await Promise.race([this.#confirm(), impatient])
        if (this.#confirmer.level === 'memory') break
        await pause(20, patience)
      }
      this.#log.info({ drained, confirmed: formatLsn(this.#confirmer.confirmed) }, 'drained')
    }
    await this.#replication?.close()
    this.#end()
  }

  /** Rows in memory: received, not yet appended. */
  get inflight(): Inflight {
    const now = Date.now()
    let oldest = now
    for (const lane of this.#publisher?.lanes.values() ?? []) {
      oldest = Math.min(oldest, lane.batches[0]?.committedAt ?? now)
    }
    const { events = 0, bytes = 0 } = this.#publisher ?? {}
    return { events, bytes, oldestSeconds: (now - oldest) / 1000 }
  }

  #settled(): boolean {
    return this.#confirmer.settled && this.#progress.confirmable <= this.#taken
  }

  #fail(error: unknown): void {
    if (this.#ended.signal.aborted) return
    this.#failure ??= error
    this.#end()
  }

  #end(): void {
    this.#ended.abort()
    this.#leaving.abort()
    for (const timer of this.#timers.splice(0)) clearInterval(timer)
    this.#publisher?.close()
    this.#barrier?.close()
    this.#replication?.destroy()
  }

  /**
   * Until it streams, the connection would hold the lock however long this process hangs. So it may not be idle for
   * longer than a walsender may be silent, and is kept busy meanwhile.
   */
  async #prepare(query: Query): Promise<void> {
    this.#connected = true
    this.#walSenderTimeout = await readWalSenderTimeout(query)
    this.#walsenderPid = Number((await query('select pg_backend_pid() as pid'))[0]?.pid)
    await query(`set idle_session_timeout = ${silenceLimit(this.#walSenderTimeout)}`)
    // A large transaction is decoded in one transaction of the walsender.
    await query(NO_TRANSACTION_TIMEOUT)
    // Nothing else is asked here while the session prepares: without an answer, the lock may be another relay's.
    const ask = () => query('select 1').catch((error) => this.#fail(error))
    const beat = setInterval(ask, statusInterval(this.#walSenderTimeout))
    try {
      await this.#lead(query)
    } finally {
      clearInterval(beat)
    }
  }

  async #lead(query: Query): Promise<void> {
    const { config, metrics } = this.#options
    // Before the lock, so that a relay which could not publish is no standby: a rollout waits for it, and the others go on.
    await verifySchema(query, config)
    await waitForLock(query, config.slot, this.#leaving.signal, () => this.#options.report('standby', 'waiting'))
    this.#leaving.signal.throwIfAborted()
    await verifySchema(query, config)
    this.#options.report('active', 'starting')

    const postgres = await this.#connect()
    const [identity] = await query('IDENTIFY_SYSTEM')
    const timeline = Number(identity?.timeline)
    const [file] = timeline > 1 ? await query(`TIMELINE_HISTORY ${timeline}`) : []
    const history = parseTimelineHistory(timeline, String(file?.content ?? ''))

    const lineage = await currentLineage(postgres, config.slot)
    if (!lineage) throw lineageMissing(config.slot)
    // Before anything halts: while nothing is read, WAL piles up, and somebody must see it.
    await measureSlot(postgres, lineage, metrics)
    this.#lineage = lineage
    this.#ledger = new Ledger(postgres, lineage, this.#id, this.#walsenderPid)
    requireConfiguredTable(config.outbox, lineage)
    const slot = await verifyIdentity(postgres, lineage, { systemId: String(identity?.systemid), timeline })
    await verifyTable(postgres, lineage)
    await fixPartitions(postgres, partitionsOf(config.streams))
    const confirmed = parseLsn(lineage.confirmedLsn)
    this.#server = { history, lsn: slot.serverLsn, confirmed }
    this.#taken = confirmed

    const alive = this.#createAliveKey()
    const ownership = this.#createOwnership(alive)
    const connect = (timeout?: number) => connectPrimary(config.redis, `outrider ${config.slot}`, timeout)
    await closeGapsFoundAgain(postgres, {
      ...{ lineage, ownership, connect },
      found: ({ id, stream }) => this.#log.info({ incident: id, stream }, 'gap closed: found again'),
    })
    if (await this.#ledger.begin(VERSION, timeline, query)) {
      this.#log.warn('session not confirmed by a synchronous standby within 5 s, continuing')
    }
    const partitions = await readPartitions(postgres)
    const tables = { ours: lineage.outboxOids, skipped: await skippedTables(postgres, lineage) }
    this.#barrier = new Barrier(() => connect(), lineage.lineage, this.#id)
    this.#confirmer = this.#createConfirmer(confirmed)
    this.#publisher = this.#createPublisher(connect, ownership, async (client) => {
      this.#learnRedisLimit(await readBulkLimit(client))
      for (const [stream, count] of Object.entries(partitions)) await client.set(partitionsKey(stream), String(count))
    })
    this.#ended.signal.throwIfAborted()
    // Also while Redis is waited for: WAL piles up, and what is lost meanwhile must be seen. From here on the connection
    // is shared, and whoever wants it waits for the ledger's turn.
    this.#timers.push(setInterval(() => void this.#watchCatalog(), CATALOG_EVERY))
    this.#receiver = new Receiver({
      router: new Router(config.outbox, partitions, tables),
      progress: this.#progress,
      publisher: this.#publisher,
      history,
      envelope: new Envelope(lineage.source),
      maxEventBytes: config.maxEventBytes,
      redisLimit: this.#options.redisLimit,
      received: (rows) => {
        metrics.received.inc(rows)
        if ((this.#publisher as Publisher).bytes > config.limits.inflightBytes) this.#pause()
      },
    })
    this.#startTimers()
    void this.#beginPublishing(this.#publisher, ownership, alive)
  }

  /**
   * Beside the stream, which does not wait for Redis: an idle outbox is confirmed meanwhile, so that it holds no WAL, and
   * rows wait in memory. Nothing is appended before every saved head is taken over and found sound.
   */
  async #beginPublishing(publisher: Publisher, ownership: HeadOwnership, alive: AliveKey): Promise<void> {
    const { config, metrics } = this.#options
    const { lineage, confirmedLsn } = this.#lineage
    try {
      await publisher.start()
      this.#ended.signal.throwIfAborted()
      await this.#takeOverHeads(publisher, ownership, alive)
      this.#ended.signal.throwIfAborted()
      this.#ownsHeads = true
      publisher.release()
      metrics.sessions.inc()
      this.#tell()
      const timeline = this.#server.history.current
      this.#log.info({ slot: config.slot, lineage, timeline, confirmed: confirmedLsn }, 'session began')
    } catch (error) {
      this.#fail(error)
    }
  }

  /** A row that was read before may wait, and would be refused again and again: the next session rejects it. */
  #learnRedisLimit(bytes: number): void {
    this.#options.redisLimit.bytes = bytes
    const { largest } = this.#receiver as Receiver
    if (largest > bytes) this.#fail(new BulkLimitLowered(bytes, largest))
    this.#ended.signal.throwIfAborted()
  }

  async #connect(): Promise<pg.Client> {
    const { config } = this.#options
    const postgres = await connectLedger(config.postgres, `outrider ${config.slot} state`)
    this.#postgres = postgres
    // When Postgres shuts down it ends ordinary connections first, and waits for walsenders: let go of that one, too.
    postgres.on('error', (error) => this.#fail(error))
    postgres.on('end', () => this.#fail(new Error('Postgres closed the connection.')))
    return postgres
  }

  #createAliveKey(): AliveKey {
    return new AliveKey({
      lineage: this.#lineage.lineage,
      session: this.#id,
      owns: (session) => this.#ledger.owns(session),
      signal: this.#ended.signal,
      refused: (error) => {
        if (!this.#saidAliveRefused) this.#log.warn({ err: error }, 'alive key refused')
        this.#saidAliveRefused = true
      },
    })
  }

  #createOwnership(alive: AliveKey): HeadOwnership {
    return {
      lineage: this.#lineage.lineage,
      session: this.#id,
      owns: (session) => this.#ledger.owns(session),
      chain: (head, saved) => chainStart(head, saved, this.#server),
      mayBeUnrecorded: (session, position) => renewsAliveKey(session) && isOfOlderTimeline(position, this.#server),
      othersAreSilent: (client) => alive.othersAreSilent(client),
      tookOver: (key, head, session) => recordPhantom(this.#ledger, this.#lineage, this.#server, key, head, session),
    }
  }

  #createPublisher(
    connect: PublisherOptions['connect'],
    ownership: HeadOwnership,
    prepare: PublisherOptions['prepare'],
  ): Publisher {
    const { config, metrics } = this.#options
    return new Publisher({
      ...ownership,
      limits: config.limits,
      connect,
      prepare,
      failed: (error) => this.#fail(error),
      done: (transaction, count) => this.#progress.done(transaction, count),
      reject: (rejections, transactions) => this.#reject(rejections, transactions),
      lost: (loss) => void this.#lost(loss),
      drained: () => this.#resume(),
      observe: {
        appended: (lane, batch, reply, milliseconds) => {
          metrics.appended(lane.key, reply.appended, reply.skipped, milliseconds / 1000)
          metrics.commitToAppend.observe(Math.max(0, Date.now() - batch.committedAt) / 1000)
        },
        known: () => metrics.skipped(),
        blocked: (reason, message) => {
          if (reason === undefined) metrics.epochs.inc()
          else metrics.errors.inc({ target: 'redis', code: reason })
          this.#refuse(reason === undefined ? undefined : { reason, message })
        },
      },
    })
  }

  #createConfirmer(confirmed: Lsn): Confirmer {
    const { config, metrics } = this.#options
    const barrier = this.#barrier as Barrier
    return new Confirmer(
      {
        level: config.durability,
        take: () => this.#take(),
        tryLevel: (level) => barrier.try(level),
        reachDurability: (level, heads) => barrier.reach(level, heads).catch((error) => this.#mistrust(error)),
        save: (lsn, heads) => this.#ledger.save(lsn, heads),
        confirm: (lsn) => {
          this.#confirmedAt = performance.now()
          metrics.confirmed(Date.now() / 1000)
          this.#replication.status(lsn)
        },
        observe: {
          level: (level) => {
            metrics.setDurability(level)
            this.#log.info({ durability: level }, 'durability level')
          },
          waited: (milliseconds) => metrics.durabilityWait.observe(milliseconds / 1000),
          unmet: (error) => this.#unmet(error),
        },
      },
      confirmed,
    )
  }

  /** What the barrier does not find where it was published: then the publisher is not where it thinks, either. */
  #mistrust(error: Error): never {
    const client = this.#publisher?.client
    if (error instanceof BarrierBroken && client) this.#publisher?.broken(client, error.message, 'redis_behind')
    throw error
  }

  #unmet(error: Error | undefined): void {
    if (error) this.#options.metrics.errors.inc({ target: 'redis', code: 'durability' })
    if (!error && !this.#unsafe) return
    this.#unsafe = error && { reason: 'durability', message: error.message }
    this.#tell()
  }

  #refuse(refusal: Hindrance | undefined): void {
    this.#refusal = refusal
    this.#tell()
  }

  #tell(): void {
    // A round that was under way when the session ended has nothing more to say.
    if (this.#ended.signal.aborted) return
    const hindrance = this.#refusal ?? this.#unsafe ?? this.#held
    const state = hindrance ? 'blocked' : this.#ownsHeads ? 'streaming' : 'starting'
    this.#options.report('active', state, hindrance?.reason, hindrance?.message)
  }

  async #takeOverHeads(publisher: Publisher, ownership: HeadOwnership, alive: AliveKey): Promise<void> {
    const takeover = new HeadTakeover({
      ...{ ownership, publisher, ledger: this.#ledger, lineage: this.#lineage, server: this.#server },
      signal: this.#ended.signal,
      undisputed: () => alive.start(() => publisher.client),
      blocked: (reason, message) => this.#refuse({ reason, message }),
    })
    await takeover.run()
  }

  #startTimers(): void {
    const every = (milliseconds: number, work: () => void) => this.#timers.push(setInterval(work, milliseconds))
    const monitor = this.#createWalsenderMonitor()
    every(statusInterval(this.#walSenderTimeout), () => this.#replication.status(this.#confirmer.confirmed, true))
    every(WALSENDER_EVERY, () => monitor.poll())
    every(PROBE_EVERY, () => this.#publisher?.tick(performance.now()))
    every(CONFIRM_EVERY, () => void this.#confirm())
  }

  #createWalsenderMonitor(): WalsenderMonitor {
    const { config, metrics } = this.#options
    return new WalsenderMonitor({
      limits: { silence: silenceLimit(this.#walSenderTimeout), ...WALSENDER_LIMITS },
      clock: () => performance.now(),
      stream: this.#replication,
      requestReply: () => this.#replication.status(this.#confirmer.confirmed, true),
      ask: () =>
        this.#ledger.inTurn((postgres) => observeWalsender(postgres, { pid: this.#walsenderPid, slot: config.slot })),
      observe: {
        decoding: (milliseconds, spilledBytes) => metrics.decoding(milliseconds / 1000, spilledBytes),
        stillDecoding: (silentMs, spilledBytes) =>
          this.#log.info({ silentMs: Math.round(silentMs), spilledBytes }, describeDecoding(silentMs, spilledBytes)),
        held: (message) => {
          if (message === undefined && !this.#held) return
          this.#held = message === undefined ? undefined : { reason: 'standby_not_confirming', message }
          this.#tell()
        },
      },
      failed: (error) => this.#fail(error),
    })
  }

  #keepalive(walEnd: Lsn, replyRequested: boolean): void {
    const since = performance.now() - this.#confirmedAt
    // With nothing in flight, what others wrote is confirmed too: an idle outbox holds no WAL.
    if (this.#receiver && this.#progress.idle && worthConfirming(walEnd, this.#taken, since)) {
      this.#progress.reached(walEnd)
    }
    if (replyRequested) this.#replication.status(this.#confirmer.confirmed)
  }

  #take(): Pending | undefined {
    const lsn = this.#progress.confirmable
    if (lsn <= this.#taken) return undefined
    this.#taken = lsn
    const heads = new Map<string, Head>()
    for (const lane of this.#publisher?.lanes.values() ?? []) {
      if (lane.moved) heads.set(lane.key, lane.head)
      lane.moved = false
    }
    return { lsn, heads }
  }

  /** One round of confirming, unless one is under way. */
  #confirm(): Promise<void> {
    this.#round ??= this.#runRound()
      .catch((error) => this.#fail(error))
      .finally(() => {
        this.#round = undefined
      })
    return this.#round
  }

  async #runRound(): Promise<void> {
    await this.#confirmer.round(performance.now())
    // A checkpoint says what was published by then: none before the heads are known to say the same.
    if (this.#ownsHeads) await this.#ledger.checkpoint(this.#confirmer.confirmed, performance.now())
  }

  /** Rows that cannot be published are kept in Postgres before they count as done. */
  async #reject(rejections: Rejection[], transactions: number[]): Promise<void> {
    await this.#ledger.reject(rejections)
    for (const { reason, stream, eventId } of rejections) {
      this.#options.metrics.rejected(reason)
      this.#log.warn({ reason, stream, eventId }, 'event rejected: see outrider incidents')
    }
    for (const transaction of transactions) this.#progress.done(transaction, 1)
  }

  async #watchCatalog(): Promise<void> {
    if (this.#watching) return
    this.#watching = true
    try {
      await this.#ledger.inTurn((postgres) =>
        watchCatalog(postgres, this.#lineage, this.#options.metrics, () => this.#ledger.holdsLock(postgres)),
      )
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#watching = false
    }
  }

  /** Redis has lost something, or somebody else writes there: only the saved heads can tell, at the next session's start. */
  async #lost(loss: Loss): Promise<void> {
    this.#log.warn(
      { stream: loss.key, status: loss.status, head: loss.reply.head, expected: loss.expected },
      loss.message,
    )
    try {
      this.#fail(await judgeLoss(loss, this.#ledger, this.#lineage, this.#server))
    } catch (error) {
      this.#fail(error)
    }
  }

  #pause(): void {
    if (this.#paused) return
    this.#paused = true
    this.#replication.pause()
  }

  #resume(): void {
    const { publisher, config } = { publisher: this.#publisher, config: this.#options.config }
    if (!this.#paused || this.#stopping || !publisher || publisher.bytes > config.limits.inflightBytes / 2) return
    this.#paused = false
    this.#replication.resume()
  }
}

interface Hindrance {
  reason: string
  message: string
}
