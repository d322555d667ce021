import { deadlineSignal } from '../base/deadline-signal.js'
import { every } from '../base/interval.js'
import { type Config, OWN_OUTBOX } from '../config/schema.js'
import { Envelope } from '../event/envelope.js'
import type { Lsn } from '../postgres/client/lsn.js'
import type { Replication } from '../postgres/replication/stream.js'
import { BarrierMismatchError } from '../redis/streams/durability.js'
import type { Logger } from '../telemetry/log.js'
import type { Inflight, Metrics } from '../telemetry/metrics.js'
import { BlockedState, type BlockedStateOptions } from './blocked-state.js'
import type { Leadership } from './bootstrap.js'
import { ConfirmLoop } from './confirm/confirm-loop.js'
import { DurabilityBarrier } from './confirm/durability-barrier.js'
import { connectRepair } from './confirm/state-store.js'
import { TransactionTracker } from './confirm/transaction-tracker.js'
import { verifySlot } from './identity.js'
import { startPruning } from './prune/pruning.js'
import { Publishing } from './publishing.js'
import { SettledRows, TXID } from './repair/settled-rows.js'
import { Settling } from './repair/settling.js'
import { RequestedEvents } from './request/requested-events.js'
import { Requests } from './request/requests.js'
import { startRetention } from './retention/retention.js'
import type { ServerClock } from './retention/server-clock.js'
import { Backpressure } from './source/backpressure.js'
import { ReadPosition } from './source/read-position.js'
import { Receiver } from './source/receiver.js'
import { RowRouter } from './source/row-router.js'
import { awaitSlotInUse } from './source/slot-in-use.js'
import { monitorSlot, SlotMonitor } from './source/slot-monitor.js'
import { inboundTimeout, StandbyStatus } from './source/standby-status.js'
import { describeDecoding, observeWalsender, WALSENDER_LIMITS, WalsenderMonitor } from './source/walsender-monitor.js'
import { Trimmer } from './trim/trimmer.js'

const PROBE_EVERY_MS = 1_000
const WALSENDER_MONITOR_EVERY_MS = 2_000
/** How long a stop waits for the last rounds of confirming, once everything is appended. */
const LAST_CONFIRM_MS = 1_000

export interface PipelineOptions {
  config: Config
  log: Logger
  metrics: Metrics
  redisLimit: { bytes: number }
  serverClock: ServerClock
  leadership: Leadership
  stream: Replication
  /** When the session began, by `performance.now()`. */
  beganAt: number
  /** Aborted when the session has ended. */
  signal: AbortSignal
  report: BlockedStateOptions['report']
  failed(error: unknown): void
}

/**
 * The path of events in one session, with what watches over it:
 *
 *     stream ──> receiver ──> publisher ──> confirm loop ──> state store, then standby status ──> stream
 *        └──── back-pressure ─────┘
 */
export class Pipeline {
  readonly receiver: Receiver
  readonly #options: PipelineOptions
  readonly #tracker = new TransactionTracker()
  readonly #blocked: BlockedState
  readonly #backpressure: Backpressure
  readonly #barrier: DurabilityBarrier
  readonly #publishing: Publishing
  readonly #confirmLoop: ConfirmLoop
  readonly #standbyStatus: StandbyStatus
  readonly #readPosition = new ReadPosition()
  readonly #requested = new RequestedEvents()
  #settled: SettledRows | undefined
  #settling: Settling | undefined
  #requests: Requests | undefined

  constructor(options: PipelineOptions) {
    const { beganAt, config, leadership, signal, report, stream } = options
    const { lineage, server, session, walsender } = leadership
    const tracker = this.#tracker
    this.#options = options
    this.#blocked = new BlockedState({ signal, report })
    this.#backpressure = new Backpressure({ stream, inflightBytes: config.limits.inflightBytes })
    this.#barrier = new DurabilityBarrier(() => leadership.connectRedis(), lineage.lineage, session)
    this.#publishing = new Publishing({
      ...{ ...options, tracker, blocked: this.#blocked, requested: this.#requested },
      largestRow: () => this.receiver.largest,
      drained: () => this.#backpressure.appended(this.#publishing.publisher.bytes),
    })
    this.#confirmLoop = this.#createConfirmLoop()
    this.#standbyStatus = new StandbyStatus({
      ...{ stream, tracker, beganAt, confirmed: server.confirmed, walSenderTimeoutMs: walsender.timeoutMs },
      taken: () => this.#confirmLoop.taken,
      awaited: () => later(this.#settling?.awaited, this.#requests?.awaited),
    })
    this.receiver = this.#createReceiver()
  }

  /** The position that the slot was told last. */
  get confirmed(): Lsn {
    return this.#confirmLoop.confirmed
  }

  /** Rows in memory: received, not yet appended. */
  get inflight(): Inflight {
    const now = Date.now()
    let oldest = now
    const { events, bytes, queues } = this.#publishing.publisher
    for (const queue of queues.values()) oldest = Math.min(oldest, queue.batches[0]?.committedAt ?? now)
    return { events, bytes, oldestSeconds: (now - oldest) / 1000 }
  }

  start(): void {
    const { leadership, metrics, signal, failed } = this.#options
    const { stateStore, lineage } = leadership
    const slotMonitor = new SlotMonitor({ stateStore, lineage, metrics, look: monitorSlot, failed })
    const walsenderMonitor = this.#createWalsenderMonitor()
    // Also while Redis is waited for: WAL piles up, and a slot that is lost meanwhile must be seen.
    slotMonitor.start(signal)
    this.#standbyStatus.start(signal)
    every(WALSENDER_MONITOR_EVERY_MS, () => walsenderMonitor.poll(), signal)
    every(PROBE_EVERY_MS, () => this.#publishing.publisher.tick(performance.now()), signal)
    // It answers the server before that, too, and confirms nothing new.
    void this.#begin()
  }

  /** Nothing is appended or confirmed before the slot that is read is known to be the one that was verified. */
  async #begin(): Promise<void> {
    const { leadership, signal, failed } = this.#options
    const { stateStore, lineage, walsender } = leadership
    try {
      const slot = await awaitSlotInUse((work) => stateStore.inTurn(work), lineage.slot, walsender.pid, signal)
      if (!slot) return
      await stateStore.inTurn((postgres) => verifySlot(postgres, lineage, slot))
    } catch (error) {
      failed(error)
      return
    }
    this.#confirmLoop.start(signal)
    this.#startSettling()
    await this.#publishing.begin()
    if (!this.#publishing.ownsHeads) return
    this.#startTrimming()
    this.#startRequests()
    startRetention({ ...this.#options, stateStore }, signal)
    startPruning({ ...this.#options, stateStore }, signal)
  }

  #startTrimming(): void {
    const { config, leadership, log, metrics, signal } = this.#options
    const { stateStore, server, connectRedis } = leadership
    const { publisher } = this.#publishing
    new Trimmer({
      ...{ config, log, metrics, stateStore, connectRedis, signal },
      timeline: server.history.current,
      streams: () => publisher.reached(),
    }).start()
  }

  /** Only rows of Outrider's own table can be appended again. */
  #startRequests(): void {
    const { config, leadership, log, redisLimit, signal } = this.#options
    if (config.outbox.table !== OWN_OUTBOX.table) return
    const { stateStore, server, partitions, connectRedis } = leadership
    this.#requests = new Requests({
      ...{ config, log, stateStore, partitions, redisLimit, signal, readPosition: this.#readPosition },
      ...{ requested: this.#requested, publisher: this.#publishing.publisher, timeline: server.history.current },
      connectRedis: () => connectRedis(),
      connectPostgres: () => connectRepair(config.postgres, `outrider ${config.slot} request`),
      appended: () => later(this.#tracker.confirmable, server.confirmed),
      requestReply: () => this.#standbyStatus.requestReply(),
      awaitHeads: () => this.#confirmLoop.awaitHeads(),
    })
    this.#requests.start()
  }

  #startSettling(): void {
    const { config, leadership, log, signal, failed } = this.#options
    const { settling, stateStore, lineage, partitions, connectRedis } = leadership
    if (!settling || !this.#settled) return
    const options = {
      ...{ stateStore, lineage, connectRedis, log, failed, repair: settling, settled: this.#settled },
      router: new RowRouter(config.outbox, partitions),
      connectPostgres: () => connectRepair(config.postgres, `outrider ${config.slot} repair`),
      confirmed: () => this.#confirmLoop.confirmed,
    }
    this.#settling = new Settling(options)
    this.#settling.start(signal)
  }

  keepalive(walEnd: Lsn, replyRequested: boolean): void {
    this.#standbyStatus.keepalive(walEnd, replyRequested)
    this.#readPosition.keepalive(walEnd)
  }

  /** Stops reading; resolves with whether everything that was read is appended. It is confirmed then, if that is soon. */
  async drain(signal: AbortSignal): Promise<boolean> {
    this.#backpressure.stop()
    this.#requests?.stop()
    const drained = await this.#publishing.publisher.drain(signal)
    // A standby waits: what is not confirmed by then is read again there, and is recognised.
    if (drained) await this.#confirmLoop.finish(deadlineSignal(LAST_CONFIRM_MS, signal))
    return drained
  }

  close(): void {
    this.#publishing.publisher.close()
    this.#barrier.close()
  }

  #createReceiver(): Receiver {
    const { config, metrics, leadership, redisLimit } = this.#options
    const { publisher } = this.#publishing
    return new Receiver({
      ...this.#createRouter(),
      tracker: this.#tracker,
      publisher,
      readPosition: this.#readPosition,
      history: leadership.server.history,
      envelope: new Envelope(leadership.lineage.source),
      maxEventBytes: config.maxEventBytes,
      redisLimit,
      received: (rows) => {
        metrics.received.inc(rows)
        this.#backpressure.received(publisher.bytes)
      },
    })
  }

  /** With what drops the rows that a repair has put back. */
  #createRouter() {
    const { config, leadership } = this.#options
    const { settling, partitions, tables } = leadership
    const router = new RowRouter(config.outbox, partitions, tables, settling ? [TXID] : [])
    this.#settled = settling && new SettledRows({ ...settling, router })
    return { router, settled: this.#settled }
  }

  #createConfirmLoop(): ConfirmLoop {
    const { config, log, metrics, leadership, failed } = this.#options
    const { publisher } = this.#publishing
    return new ConfirmLoop({
      ...{ tracker: this.#tracker, barrier: this.#barrier, stateStore: leadership.stateStore, failed },
      level: config.durability,
      confirmed: leadership.server.confirmed,
      queues: () => publisher.queues.values(),
      ownsHeads: () => this.#publishing.ownsHeads,
      confirm: (lsn) => {
        metrics.confirmed(Date.now() / 1000)
        this.#standbyStatus.confirm(lsn)
      },
      saved: (heads) => this.#requests?.saved(heads),
      // If the barrier does not find a head where it was published, the publisher is not where it expects to be, either.
      barrierFailed: (error) => {
        const { client } = publisher
        if (error instanceof BarrierMismatchError && client) publisher.broken(client, error.message, 'redis_behind')
      },
      observe: {
        level: (level) => {
          metrics.setDurability(level)
          log.info({ durability: level }, 'durability level')
        },
        waited: (milliseconds) => metrics.durabilityWait.observe(milliseconds / 1000),
        unmet: (error) => {
          if (error) metrics.errors.inc({ target: 'redis', code: 'durability' })
          this.#blocked.setDurability(error?.message)
        },
      },
    })
  }

  #createWalsenderMonitor(): WalsenderMonitor {
    const { config, log, metrics, leadership, stream, failed } = this.#options
    const { stateStore, walsender } = leadership
    return new WalsenderMonitor({
      limits: { silence: inboundTimeout(walsender.timeoutMs), ...WALSENDER_LIMITS },
      clock: () => performance.now(),
      stream,
      requestReply: () => this.#standbyStatus.requestReply(),
      ask: () => stateStore.inTurn((postgres) => observeWalsender(postgres, { pid: walsender.pid, slot: config.slot })),
      observe: {
        decoding: (milliseconds, spilledBytes) => metrics.decoding(milliseconds / 1000, spilledBytes),
        stillDecoding: (silentMs, spilledBytes) =>
          log.info({ silentMs: Math.round(silentMs), spilledBytes }, describeDecoding(silentMs, spilledBytes)),
        held: (message) => this.#blocked.setPostgres(message),
      },
      failed,
    })
  }
}

const later = (one: Lsn = 0n, other: Lsn = 0n): Lsn => (one > other ? one : other)
