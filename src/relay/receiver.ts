import { Column, type Envelope } from '../event/envelope.js'
import { type Position, positionOf, positionPrefix } from '../event/position.js'
import { beginLsn, beginTime, commitEndLsn, insertOid, MessageType, readRelation } from '../postgres/pgoutput.js'
import { type TimelineHistory, timelineOf } from '../postgres/timeline.js'
import { MAX_SMALL_COLUMN_BYTES, MAX_WHOLE_ROW_BYTES } from './kept-row.js'
import type { Lane } from './lane.js'
import type { Progress } from './progress.js'
import type { Publisher } from './publisher.js'
import type { Router } from './route.js'

/** From the messages of the replication stream to the lanes of the publisher: the hot path, one call an event. */
export interface ReceiverOptions {
  router: Router
  progress: Progress
  publisher: Publisher
  history: TimelineHistory
  envelope: Envelope
  /** Bytes of a row's message beyond which it is rejected. */
  maxEventBytes: number
  /** Bytes of a row's message beyond which Redis may not take it; it changes when Redis is asked again. */
  redisLimit: Readonly<{ bytes: number }>
  /** After each row. */
  received(): void
}

/** Bytes that an event takes in memory beside its text: strings, arguments, its part of the reply. Measured, rounded up. */
const OVERHEAD = 768

export class Receiver {
  readonly #options: ReceiverOptions
  /** Bytes of the largest message of a row that was handed on to be appended. */
  #largest = 0
  // Of the transaction that is being received.
  #transaction = 0
  #prefix = ''
  #index = 0
  #committedAt = 0

  constructor(options: ReceiverOptions) {
    this.#options = options
  }

  get largest(): number {
    return this.#largest
  }

  /** Takes one pgoutput message. */
  message(data: Buffer): void {
    const { progress, router, history } = this.#options
    switch (data[0]) {
      case MessageType.insert:
        this.#insert(data)
        break
      case MessageType.begin: {
        const lsn = beginLsn(data)
        this.#transaction = progress.begin()
        this.#prefix = positionPrefix(timelineOf(history, lsn), lsn)
        this.#index = 0
        this.#committedAt = beginTime(data)
        break
      }
      case MessageType.commit:
        progress.commit(commitEndLsn(data))
        break
      case MessageType.relation:
        router.relation(readRelation(data))
        break
    }
  }

  #insert(data: Buffer): void {
    const { router, envelope, publisher, progress, maxEventBytes, redisLimit } = this.#options
    const most = Math.min(maxEventBytes, redisLimit.bytes)
    // Looked at before the row becomes strings: one row of a few hundred megabytes has no room as a string.
    const large = data.length > most
    const unread = large && data.length > MAX_WHOLE_ROW_BYTES
    if (!router.read(data, insertOid(data), unread ? MAX_SMALL_COLUMN_BYTES : undefined)) return
    const position = positionOf(this.#prefix, this.#index++)
    const bytes = data.length + OVERHEAD
    progress.row()
    this.#options.received()
    publisher.meet(position, router.values[Column.id])

    const key = router.key()
    if (key === undefined) {
      const wrong = `expected the name of a stream, found ${JSON.stringify(router.stream() ?? null)}`
      this.#reject(undefined, 'bad_stream', wrong, position, bytes)
      return
    }
    const lane = publisher.lane(key)
    if (large) {
      const reason = data.length > maxEventBytes ? 'too_large' : 'too_large_for_redis'
      this.#reject(lane, reason, `expected at most ${most} bytes, found ${data.length}`, position, bytes)
      return
    }
    const batch = publisher.batch(lane, bytes)
    const wrong = envelope.push(batch.args, router.values, position, this.#committedAt, router.dataIsJson)
    if (wrong !== undefined) {
      publisher.unused(lane, batch)
      this.#reject(lane, 'malformed', wrong, position, bytes)
      return
    }
    if (data.length > this.#largest) this.#largest = data.length
    publisher.added(lane, batch, this.#transaction, position, bytes, this.#committedAt)
  }

  #reject(lane: Lane | undefined, reason: string, message: string, position: Position, bytes: number): void {
    const { router, publisher } = this.#options
    const eventId = router.values[Column.id] ?? undefined
    const stream = lane?.key ?? router.stream()
    publisher.reject(lane, {
      rejection: { reason, message, stream, eventId, position, ...router.content() },
      transaction: this.#transaction,
      bytes,
    })
  }
}
