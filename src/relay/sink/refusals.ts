import type { Head } from '../../event/head.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedis } from '../../redis/client/errors.js'
import type { RefusedReply } from '../../redis/streams/append.js'
import type { Batch } from './batch.js'
import { isReplaced, LossError } from './loss.js'
import type { PendingEvents } from './pending-events.js'
import type { PublisherOptions } from './publisher-options.js'
import type { ReconnectingRedis } from './reconnecting-redis.js'
import { rejectEvent } from './rejection.js'
import type { RowRejecter } from './row-rejecter.js'
import type { StreamQueue } from './stream-queue.js'

/** An exhausted stream answers every probe, and its next refusal would end the epoch of all others. */
const READMIT_AFTER_MS = 60_000

export interface RefusalsOptions extends Pick<PublisherOptions, 'readmitAfterMs' | 'done'> {
  redis: ReconnectingRedis
  pending: PendingEvents
  rejecter: RowRejecter
  open(queue: StreamQueue, head: Head, chain: Position): void
  lost(loss: LossError): void
}

/** Decides what a refusal of Redis is about: a row, a stream, or everything for now. See `classifyRedis`. */
export class Refusals {
  readonly #options: RefusalsOptions
  readonly #readmitAfterMs: number

  constructor(options: RefusalsOptions) {
    this.#options = options
    this.#readmitAfterMs = options.readmitAfterMs ?? READMIT_AFTER_MS
  }

  /** Redis would not take a batch, or only its beginning. Batches behind it found their chain broken: nothing overtook. */
  refused(client: RedisClient, queue: StreamQueue, batch: Batch | undefined, reply: RefusedReply): void {
    const { policy, reason } = classifyRedis(reply.error)
    if (policy === 'halt') {
      this.#options.lost(new LossError('HALT', queue.key, reply, queue.acknowledged))
      return
    }
    if (policy === 'row' && batch) {
      const event = queue.take(batch, reply.appended + reply.skipped)
      this.#options.rejecter.keep(queue, [
        rejectEvent(queue.key, event, reason, batch.events === 0 ? batch.heldBytes : 0),
      ])
    } else if (policy === 'stream') {
      if (isReplaced(reply.error, queue.head.position)) {
        this.#options.lost(new LossError('BEHIND', queue.key, reply, queue.acknowledged))
        return
      }
      if (batch) this.#split(queue, batch, reply)
      queue.refuse(reason, performance.now())
    }
    this.#options.redis.broken(client, reply.error)
  }

  /** Redis takes the stream again. One that was open continues its chain; of another the head is still to be taken over. */
  readmit(queue: StreamQueue, head: Head): void {
    const exhausted = queue.refusal === 'stream_exhausted'
    if (exhausted && performance.now() - queue.refusedAt < this.#readmitAfterMs) return
    if (queue.head.position === ZERO_POSITION) queue.forget()
    else this.#options.open(queue, head, queue.acknowledged)
  }

  /** The beginning of a batch is in the stream; only the rest of it is refused. */
  #split(queue: StreamQueue, batch: Batch, reply: RefusedReply): void {
    const applied = reply.appended + reply.skipped
    for (let i = 0; i < applied; i++) this.#options.done(queue.take(batch, 0).transaction, 1)
    if (applied === 0) return
    queue.acknowledgePart(reply.head)
    this.#options.pending.count(-applied, 0)
  }
}
