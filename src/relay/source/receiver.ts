import { Column, type Envelope } from '../../event/envelope.js'
import { PositionBytes } from '../../event/position-bytes.js'
import {
  BEGIN_LSN_AT,
  beginLsn,
  beginTime,
  commitEndLsn,
  insertOid,
  MessageType,
  readRelation,
} from '../../postgres/replication/pgoutput.js'
import { type TimelineHistory, timelineOf } from '../../postgres/replication/timeline.js'
import type { TransactionTracker } from '../confirm/transaction-tracker.js'
import type { SettledRows } from '../repair/settled-rows.js'
import type { ReadRow } from '../sink/met-heads.js'
import type { Publisher } from '../sink/publisher.js'
import type { StreamQueue } from '../sink/stream-queue.js'
import { MAX_SMALL_COLUMN_BYTES, MAX_WHOLE_ROW_BYTES } from './kept-row.js'
import type { ReadPosition } from './read-position.js'
import { findExcess, type RowLimits } from './row-excess.js'
import type { RowRouter } from './row-router.js'

export interface ReceiverOptions extends RowLimits {
  router: RowRouter
  tracker: TransactionTracker
  publisher: Publisher
  history: TimelineHistory
  envelope: Envelope
  /** Rows that a repair has put back already. */
  settled: SettledRows | undefined
  /** Is told how far was read. */
  readPosition: ReadPosition
  /** So many rows came with one read of the socket. */
  received(rows: number): void
}

/** Bytes that an event takes in memory beside its text: strings, arguments, its part of the reply. Measured, rounded up. */
const OVERHEAD = 768

/** From the messages of the replication stream to the queues of the publisher: the hot path, one call an event. */
export class Receiver {
  readonly #options: ReceiverOptions
  /** Bytes of the largest message of a row that was handed on to be appended. */
  #largest = 0
  // Of the transaction that is being received.
  #transaction = 0
  #timeline = 0
  readonly #lsn = Buffer.alloc(8)
  #index = 0
  #committedAt = 0
  readonly #position = new PositionBytes()
  readonly #row: ReadRow
  #unreported = 0

  constructor(options: ReceiverOptions) {
    this.#options = options
    const position = this.#position
    const { router } = options
    this.#row = {
      get position() {
        return position.toString()
      },
      get eventId() {
        return router.text(Column.id)
      },
    }
  }

  get largest(): number {
    return this.#largest
  }

  /** Takes one pgoutput message: the bytes of `data` from `start` to `end`. */
  message(data: Buffer, start: number, end: number): void {
    const { tracker, router, history, readPosition, settled } = this.#options
    switch (data[start]) {
      case MessageType.insert:
        this.#insert(data, start, end)
        break
      case MessageType.begin:
        this.#transaction = tracker.begin()
        this.#timeline = timelineOf(history, beginLsn(data, start))
        data.copy(this.#lsn, 0, start + BEGIN_LSN_AT, start + BEGIN_LSN_AT + 8)
        this.#index = 0
        this.#committedAt = beginTime(data, start)
        settled?.begin(data, start)
        readPosition.begin()
        break
      case MessageType.commit:
        tracker.commit(commitEndLsn(data, start))
        readPosition.commit(commitEndLsn(data, start))
        break
      case MessageType.relation:
        router.relation(readRelation(data.subarray(start, end)))
        break
    }
  }

  /** Everything that one read of the socket brought was taken. */
  read(): void {
    this.#options.router.forget()
    const rows = this.#unreported
    if (rows === 0) return
    this.#unreported = 0
    this.#options.received(rows)
  }

  #insert(data: Buffer, start: number, end: number): void {
    const { router, envelope, publisher, tracker, settled } = this.#options
    const size = end - start
    const oid = insertOid(data, start)
    if (!router.read(data, oid, undefined, start, end)) return
    // Looked at before the row becomes strings: one row of a few hundred megabytes has no room as a string.
    const excess = findExcess(size, router, this.#options)
    if (excess && size > MAX_WHOLE_ROW_BYTES) router.read(data, oid, MAX_SMALL_COLUMN_BYTES, start, end)
    // Until the next row the position stays, also when the next transaction has begun.
    if (this.#index === 0) this.#position.begin(this.#timeline, this.#lsn, 0)
    this.#position.row(this.#index++)
    const bytes = size + OVERHEAD
    tracker.row()
    this.#unreported += 1
    publisher.meet(this.#row)

    const key = router.key()
    if (key === undefined) {
      const wrong = `expected the name of a stream, found ${JSON.stringify(router.stream() ?? null)}`
      this.#reject(undefined, 'bad_stream', wrong, bytes)
      return
    }
    if (settled?.drops(key)) {
      tracker.done(this.#transaction, 1)
      return
    }
    const queue = publisher.queue(key)
    if (excess) {
      this.#reject(queue, excess.reason, excess.message, bytes)
      return
    }
    const batch = publisher.batch(queue, bytes)
    const wrong = envelope.push(batch.args, router, this.#position.bytes, this.#committedAt, router.dataIsJson)
    if (wrong !== undefined) {
      publisher.unused(queue, batch)
      this.#reject(queue, 'malformed', wrong, bytes)
      return
    }
    if (size > this.#largest) this.#largest = size
    publisher.added(queue, batch, this.#transaction, bytes, this.#committedAt)
  }

  #reject(queue: StreamQueue | undefined, reason: string, message: string, bytes: number): void {
    const { router, publisher } = this.#options
    const eventId = router.text(Column.id) ?? undefined
    const position = this.#position.toString()
    const stream = queue?.key ?? router.stream()
    publisher.reject(queue, {
      rejection: { reason, message, stream, eventId, position, ...router.content() },
      transaction: this.#transaction,
      bytes,
    })
  }
}
