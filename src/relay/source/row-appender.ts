import type { Config } from '../../config/schema.js'
import { Column, Envelope } from '../../event/envelope.js'
import type { Position } from '../../event/position.js'
import type { Publisher } from '../sink/publisher.js'
import type { Rejection } from '../sink/rejection.js'
import type { StreamQueue } from '../sink/stream-queue.js'
import { findExcess, type RowLimits } from './row-excess.js'
import { RowRouter } from './row-router.js'

/** Bytes that an event takes in memory beside its text. */
const OVERHEAD = 768

export interface RowAppenderOptions {
  config: Pick<Config, 'outbox' | 'maxEventBytes'>
  source: string
  partitions: Readonly<Record<string, number>>
  redisLimit: RowLimits['redisLimit']
  /** What the publisher counts the events for. */
  transaction: number
}

/** Hands rows that were read by a query to a publisher, as the receiver does with those of WAL. */
export class RowAppender {
  readonly #options: RowAppenderOptions
  readonly #router: RowRouter
  readonly #envelope: Envelope

  constructor(options: RowAppenderOptions) {
    this.#options = options
    this.#router = new RowRouter(options.config.outbox, options.partitions)
    this.#envelope = new Envelope(options.source)
  }

  /** The columns of a row, in order. */
  get columns(): readonly string[] {
    return this.#router.columns
  }

  /** Takes a row; the key of its stream. */
  take(row: readonly (string | null)[]): string | undefined {
    this.#router.take(row)
    return this.#router.key()
  }

  /** The row that was taken last is appended to its stream, or becomes an incident. */
  append(publisher: Publisher, queue: StreamQueue, position: Position): void {
    const router = this.#router
    const size = router.data.length
    const bytes = size + OVERHEAD
    const { config, redisLimit, transaction } = this.#options
    const excess = findExcess(size, router, { maxEventBytes: config.maxEventBytes, redisLimit })
    const reject = (reason: string, message: string) => {
      const rejection = this.#rejection(queue.key, position, reason, message)
      publisher.reject(queue, { rejection, transaction, bytes })
    }
    if (excess) {
      reject(excess.reason, excess.message)
      return
    }
    const batch = publisher.batch(queue, bytes)
    const now = Date.now()
    const wrong = this.#envelope.push(batch.args, router, Buffer.from(position), now, true)
    if (wrong !== undefined) {
      publisher.unused(queue, batch)
      reject('malformed', wrong)
      return
    }
    publisher.added(queue, batch, transaction, bytes, now)
  }

  /** The row that was taken last cannot be appended: Redis refuses its stream. */
  refuse(publisher: Publisher, key: string, position: Position, reason: string): void {
    const rejection = this.#rejection(key, position, reason, undefined)
    publisher.reject(undefined, {
      rejection,
      transaction: this.#options.transaction,
      bytes: this.#router.data.length,
    })
  }

  #rejection(stream: string, position: Position, reason: string, message: string | undefined): Rejection {
    const eventId = this.#router.text(Column.id) ?? undefined
    return { reason, message, stream, eventId, position, ...this.#router.content() }
  }
}
