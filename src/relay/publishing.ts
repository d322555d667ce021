import { every } from '../base/interval.js'
import type { Config } from '../config/schema.js'
import { partitionsKey } from '../event/names.js'
import { saveRedis } from '../postgres/state/lineage.js'
import { addressHash } from '../redis/client/address.js'
import { BulkLimitLoweredError, readBulkLimit } from '../redis/client/bulk-limit.js'
import type { RedisClient } from '../redis/client/connect.js'
import type { Logger } from '../telemetry/log.js'
import type { Metrics } from '../telemetry/metrics.js'
import type { BlockedState } from './blocked-state.js'
import type { Leadership } from './bootstrap.js'
import type { TransactionTracker } from './confirm/transaction-tracker.js'
import { keepRejections } from './keep-rejections.js'
import { REQUESTED, type RequestedEvents } from './request/requested-events.js'
import { HeadTakeover } from './sink/head-takeover.js'
import { classifyLoss, type LossError } from './sink/loss.js'
import { Publisher } from './sink/publisher.js'

/** A master of a cluster may lose nothing but the number of partitions, and no stream that would show it. */
const PARTITIONS_EVERY_MS = 5_000

export interface PublishingOptions {
  config: Config
  log: Logger
  metrics: Metrics
  leadership: Leadership
  tracker: TransactionTracker
  blocked: BlockedState
  /** The limit of Redis for one row, in bytes: learned here, and kept for the sessions that follow. */
  redisLimit: { bytes: number }
  /** Bytes of the largest row that was handed on to be appended. */
  largestRow(): number
  /** Aborted when the session has ended. */
  signal: AbortSignal
  /** Counts events of a request. */
  requested: RequestedEvents
  /** Fewer bytes are in flight. */
  drained(): void
  failed(error: unknown): void
}

/** Publishes for one session: takes over the saved heads, then appends. */
export class Publishing {
  readonly publisher: Publisher
  readonly #options: PublishingOptions
  #ownsHeads = false

  constructor(options: PublishingOptions) {
    this.#options = options
    this.publisher = this.#createPublisher()
  }

  /** Are all saved heads taken over? */
  get ownsHeads(): boolean {
    return this.#ownsHeads
  }

  /**
   * Runs while the stream is read, which does not wait for Redis: an idle outbox is confirmed meanwhile, so that it holds
   * no WAL, and rows wait in memory. Nothing is appended before every saved head is taken over and found sound.
   */
  async begin(): Promise<void> {
    const { config, log, metrics, leadership, blocked, signal, failed } = this.#options
    const { lineage, server, stateStore } = leadership
    try {
      await this.publisher.start()
      signal.throwIfAborted()
      await this.#takeOverHeads()
      signal.throwIfAborted()
      await stateStore.inTurn((postgres) => saveRedis(postgres, lineage.lineage, addressHash(config.redis.url)))
      this.#ownsHeads = true
      this.publisher.release()
      every(PARTITIONS_EVERY_MS, () => this.#renewPartitions(), signal)
      metrics.sessions.inc()
      blocked.setStreaming()
      log.info(
        {
          slot: config.slot,
          lineage: lineage.lineage,
          timeline: server.history.current,
          confirmed: lineage.confirmedLsn,
        },
        'session began',
      )
    } catch (error) {
      failed(error)
    }
  }

  async #takeOverHeads(): Promise<void> {
    const { leadership, blocked, signal } = this.#options
    const { alive, ownership, stateStore, lineage, server } = leadership
    const { publisher } = this
    const takeover = new HeadTakeover({
      ...{ ownership, publisher, stateStore, lineage, server, signal },
      undisputed: () => alive.start(() => publisher.client),
      blocked: (reason, message) => blocked.setRedis({ reason, message }),
    })
    await takeover.run()
  }

  #createPublisher(): Publisher {
    const { config, log, metrics, leadership, tracker, blocked, requested, drained, failed } = this.#options
    const { ownership, connectRedis, stateStore } = leadership
    const done = (transaction: number, count: number) => {
      if (transaction === REQUESTED) requested.done(count)
      else tracker.done(transaction, count)
    }
    return new Publisher({
      ...ownership,
      limits: config.limits,
      connect: connectRedis,
      prepare: (client) => this.#prepare(client),
      ...{ drained, failed },
      done,
      reject: (rejections, transactions) => {
        requested.reject(transactions.filter((transaction) => transaction === REQUESTED).length)
        return keepRejections(rejections, transactions, { stateStore, done, metrics, log })
      },
      lost: (loss) => void this.#lost(loss),
      observe: {
        appended: (queue, batch, reply, milliseconds) => {
          metrics.appended(queue.key, reply.appended, reply.skipped, milliseconds / 1000)
          metrics.commitToAppend.observe(Math.max(0, Date.now() - batch.committedAt) / 1000)
        },
        known: () => metrics.skipped(),
        blocked: (reason, message) => {
          if (reason === undefined) metrics.epochs.inc()
          else metrics.errors.inc({ target: 'redis', code: reason })
          blocked.setRedis(reason === undefined ? undefined : { reason, message })
        },
      },
    })
  }

  async #prepare(client: RedisClient): Promise<void> {
    this.#learnRedisLimit(await readBulkLimit(client))
    await this.#setPartitions(client)
  }

  async #setPartitions(client: RedisClient): Promise<void> {
    for (const [stream, count] of Object.entries(this.#options.leadership.partitions)) {
      await client.set(partitionsKey(stream), String(count))
    }
  }

  /** Consumers that start read it. A connection that breaks is the publisher's concern, and the next one begins with it. */
  #renewPartitions(): void {
    const { client } = this.publisher
    if (client) this.#setPartitions(client).catch(() => {})
  }

  /** A row that was read before may wait, and would be refused again and again: the next session rejects it. */
  #learnRedisLimit(bytes: number): void {
    const { redisLimit, largestRow, signal, failed } = this.#options
    redisLimit.bytes = bytes
    const largest = largestRow()
    if (largest > bytes) failed(new BulkLimitLoweredError(bytes, largest))
    signal.throwIfAborted()
  }

  /** Redis has lost something, or another writer uses the head: only the saved heads show it, at the next session's start. */
  async #lost(loss: LossError): Promise<void> {
    const { log, leadership, failed } = this.#options
    const { stateStore, lineage, server } = leadership
    log.warn({ stream: loss.key, status: loss.status, head: loss.reply.head, expected: loss.expected }, loss.message)
    try {
      failed(await classifyLoss(loss, stateStore, lineage, server))
    } catch (error) {
      failed(error)
    }
  }
}
