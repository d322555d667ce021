import { Column, type Envelope } from '../event/envelope.js'
import { PositionBytes } from '../event/position-bytes.js'
import {
  BEGIN_LSN_AT,
  beginLsn,
  beginTime,
  commitEndLsn,
  insertOid,
  MessageType,
  readRelation,
} from '../postgres/pgoutput.js'
import { type TimelineHistory, timelineOf } from '../postgres/timeline.js'
import { MAX_SMALL_COLUMN_BYTES, MAX_WHOLE_ROW_BYTES } from './kept-row.js'
import type { Lane } from './lane.js'
import type { Progress } from './progress.js'
import type { Publisher, ReadRow } from './publisher.js'
import type { Router } from './route.js'

/** From the messages of the replication stream to the lanes of the publisher: the hot path, one call an event. */
export interface ReceiverOptions {
  router: Router
  progress: Progress
  publisher: Publisher
  history: TimelineHistory
  envelope: Envelope
  /** Bytes of a row's `data` beyond which it is rejected; its other columns may have `MAX_OTHER_BYTES` in addition. */
  maxEventBytes: number
  /** Bytes of a row's message beyond which Redis may not take it; it changes when Redis is asked again. */
  redisLimit: Readonly<{ bytes: number }>
  /** So many rows came with one read of the socket. */
  received(rows: number): void
}

/**
 * Bytes that a row's message may have beyond the largest `data`: more than all other columns of Outrider's own table can fill,
 * so that what its constraint on `data` admits is published.
 */
const MAX_OTHER_BYTES = 16 * 1024

/** Bytes that an event takes in memory beside its text: strings, arguments, its part of the reply. Measured, rounded up. */
const OVERHEAD = 768

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
    const { progress, router, history } = this.#options
    switch (data[start]) {
      case MessageType.insert:
        this.#insert(data, start, end)
        break
      case MessageType.begin:
        this.#transaction = progress.begin()
        this.#timeline = timelineOf(history, beginLsn(data, start))
        data.copy(this.#lsn, 0, start + BEGIN_LSN_AT, start + BEGIN_LSN_AT + 8)
        this.#index = 0
        this.#committedAt = beginTime(data, start)
        break
      case MessageType.commit:
        progress.commit(commitEndLsn(data, start))
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
    const { router, envelope, publisher, progress } = this.#options
    const size = end - start
    const oid = insertOid(data, start)
    if (!router.read(data, oid, undefined, start, end)) return
    // Looked at before the row becomes strings: one row of a few hundred megabytes has no room as a string.
    const excess = this.#findExcess(size)
    if (excess && size > MAX_WHOLE_ROW_BYTES) router.read(data, oid, MAX_SMALL_COLUMN_BYTES, start, end)
    // Until the next row the position stays, also when the next transaction has begun.
    if (this.#index === 0) this.#position.begin(this.#timeline, this.#lsn, 0)
    this.#position.row(this.#index++)
    const bytes = size + OVERHEAD
    progress.row()
    this.#unreported += 1
    publisher.meet(this.#row)

    const key = router.key()
    if (key === undefined) {
      const wrong = `expected the name of a stream, found ${JSON.stringify(router.stream() ?? null)}`
      this.#reject(undefined, 'bad_stream', wrong, bytes)
      return
    }
    const lane = publisher.lane(key)
    if (excess) {
      this.#reject(lane, excess.reason, excess.message, bytes)
      return
    }
    const batch = publisher.batch(lane, bytes)
    const wrong = envelope.push(batch.args, router, this.#position.bytes, this.#committedAt, router.dataIsJson)
    if (wrong !== undefined) {
      publisher.unused(lane, batch)
      this.#reject(lane, 'malformed', wrong, bytes)
      return
    }
    if (size > this.#largest) this.#largest = size
    publisher.added(lane, batch, this.#transaction, bytes, this.#committedAt)
  }

  #findExcess(size: number): { reason: string; message: string } | undefined {
    const { router, maxEventBytes, redisLimit } = this.#options
    if (size > maxEventBytes) {
      const bytes = router.dataBytes
      if (bytes > maxEventBytes) return excessOf('too_large', 'of data', maxEventBytes, bytes)
      const most = maxEventBytes + MAX_OTHER_BYTES
      if (size > most) return excessOf('too_large', 'in all columns', most, size)
    }
    if (size <= redisLimit.bytes) return undefined
    return excessOf('too_large_for_redis', 'in all columns', redisLimit.bytes, size)
  }

  #reject(lane: Lane | undefined, reason: string, message: string, bytes: number): void {
    const { router, publisher } = this.#options
    const eventId = router.text(Column.id) ?? undefined
    const position = this.#position.toString()
    const stream = lane?.key ?? router.stream()
    publisher.reject(lane, {
      rejection: { reason, message, stream, eventId, position, ...router.content() },
      transaction: this.#transaction,
      bytes,
    })
  }
}

const excessOf = (reason: string, where: string, most: number, found: number) => ({
  reason,
  message: `expected at most ${most} bytes ${where}, found ${found}`,
})
