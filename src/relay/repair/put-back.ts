import { once } from 'node:events'
import { every } from '../../base/interval.js'
import type { Config } from '../../config/schema.js'
import type { Head } from '../../event/head.js'
import { type Position, placePrefix, positionOf } from '../../event/position.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { readBulkLimit } from '../../redis/client/bulk-limit.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { loadRepair } from '../../redis/streams/repair.js'
import type { Logger } from '../../telemetry/log.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { StateStore } from '../confirm/state-store.js'
import { RedisFaultError } from '../errors.js'
import type { HeadOwnership } from '../sink/head-ownership.js'
import type { LossError } from '../sink/loss.js'
import { Publisher } from '../sink/publisher.js'
import type { Rejection } from '../sink/rejection.js'
import type { StreamQueue } from '../sink/stream-queue.js'
import { RowAppender } from '../source/row-appender.js'

const TICK_MS = 1_000

export interface PutBackOptions {
  config: Config
  log: Logger
  metrics: Metrics
  lineage: Lineage
  ownership: HeadOwnership
  stateStore: StateStore
  partitions: Readonly<Record<string, number>>
  connectRedis(commandTimeout?: number): Promise<RedisClient>
  /** Aborted when the session ends. */
  signal: AbortSignal
  blocked(reason: string | undefined, message: string): void
}

/** Where a repair appends: below everything that comes from WAL. */
export interface Place {
  timeline: number
  /** From where WAL is read afterwards. */
  confirmed: Lsn
  /** The first index that nothing has yet. */
  index: number
}

/** A stream whose head stands at the place, before its first event was put back. */
interface Prepared {
  entry: string
  position: Position
}

/** Appends rows of the table at a place, over a publisher of its own. */
export class PutBack {
  readonly publisher: Publisher
  readonly #options: PutBackOptions
  readonly #rows: RowAppender
  readonly #redisLimit = { bytes: Number.POSITIVE_INFINITY }
  readonly #ended = new AbortController()
  readonly #prepared = new Map<string, Prepared>()
  readonly #drained = new EventTarget()
  #prefix = ''
  #index = 0
  #appended = 0

  constructor(options: PutBackOptions) {
    const { config, lineage, partitions, ownership, connectRedis, signal, blocked, metrics } = options
    this.#options = options
    this.#rows = new RowAppender({
      ...{ config, source: lineage.source, partitions, redisLimit: this.#redisLimit, transaction: 0 },
    })
    this.publisher = new Publisher({
      ...ownership,
      limits: config.limits,
      connect: connectRedis,
      prepare: async (client) => {
        await loadRepair(client)
        this.#redisLimit.bytes = await readBulkLimit(client)
      },
      done: () => {},
      reject: (rejections) => this.#reject(rejections),
      failed: (error) => this.fail(error),
      lost: (loss: LossError) => this.fail(loss),
      drained: () => this.#drained.dispatchEvent(new Event('drained')),
      observe: {
        appended: (queue, _, reply, milliseconds) => {
          this.#appended += reply.appended + reply.skipped
          metrics.appended(queue.key, reply.appended, reply.skipped, milliseconds / 1000)
        },
        known: () => {},
        blocked: (reason, message) => blocked(reason, message),
      },
    })
    signal.addEventListener('abort', () => this.fail(signal.reason), { once: true })
    every(TICK_MS, () => this.publisher.tick(performance.now()), this.#ended.signal)
  }

  /** Events that are in their streams. */
  get appended(): number {
    return this.#appended
  }

  /** Aborts when the publisher fails, or the session ends, with the reason. */
  get signal(): AbortSignal {
    return this.#ended.signal
  }

  /** The columns of a row, for `add`. */
  get columns(): readonly string[] {
    return this.#rows.columns
  }

  /** A connection to Redis, once there is one. Rejects when the session ends. */
  async connected(): Promise<RedisClient> {
    const client = await this.publisher.connected(this.#ended.signal)
    this.#ended.signal.throwIfAborted()
    if (client === undefined) throw new RedisFaultError('The connection to Redis was lost.')
    return client
  }

  begin({ timeline, confirmed, index }: Place): void {
    this.#prefix = placePrefix(timeline, confirmed)
    this.#index = index
    this.publisher.release()
  }

  /** The next position of the place. Nothing else gets it. */
  next(): Position {
    return positionOf(this.#prefix, this.#index++)
  }

  /** The head of the stream was moved to this position. */
  prepared(key: string, position: Position, entry: string): void {
    this.#prepared.set(key, { position, entry })
  }

  isPrepared(key: string): boolean {
    return this.#prepared.has(key)
  }

  /** The heads as they are now, of all prepared streams. */
  heads(): Map<string, Head> {
    const heads = new Map<string, Head>()
    for (const [key, { position, entry }] of this.#prepared) {
      heads.set(key, this.publisher.queues.get(key)?.head ?? { position, entry, event: '' })
    }
    return heads
  }

  /** The key of a row's stream. */
  keyOf(row: readonly (string | null)[]): string | undefined {
    return this.#rows.take(row)
  }

  /** The row that `keyOf` was called with last is appended to its stream, which must be prepared. */
  add(key: string): void {
    this.#rows.append(this.publisher, this.#queue(key), this.next())
  }

  /** The row that `keyOf` was called with last cannot be appended: Redis refuses its stream. */
  refuse(key: string, reason: string): void {
    this.#rows.refuse(this.publisher, key, this.next(), reason)
  }

  /** Until no more than the configured bytes are in flight. Rejects when the publisher fails or the session ends. */
  async room(): Promise<void> {
    this.#ended.signal.throwIfAborted()
    while (this.publisher.bytes > this.#options.config.limits.inflightBytes) {
      await once(this.#drained, 'drained', { signal: this.#ended.signal }).catch(() => {
        this.#ended.signal.throwIfAborted()
      })
    }
  }

  /** Until everything is appended. Rejects as `room` does. */
  async finish(): Promise<void> {
    await this.publisher.drain(this.#ended.signal)
    this.#ended.signal.throwIfAborted()
  }

  close(): void {
    this.fail(new Error('The repair has ended.'))
  }

  /** Ends it: whatever waits for it rejects with this. */
  fail(error: unknown): void {
    this.publisher.close()
    this.#ended.abort(error)
  }

  #queue(key: string): StreamQueue {
    const known = this.publisher.queues.get(key)
    if (known) return known
    const prepared = this.#prepared.get(key)
    if (!prepared) throw new Error(`Expected stream ${key} to be prepared before its first event.`)
    const queue = this.publisher.queue(key)
    this.publisher.open(queue, { ...prepared, event: '' }, prepared.position)
    return queue
  }

  async #reject(rejections: Rejection[]): Promise<void> {
    const { stateStore, metrics, log } = this.#options
    await stateStore.reject(rejections)
    for (const { reason, stream, eventId } of rejections) {
      metrics.rejected(reason)
      log.warn({ reason, stream, eventId }, 'event rejected: see outrider incidents')
    }
  }
}
