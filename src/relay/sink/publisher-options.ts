import type { RedisClient } from '../../redis/client/connect.js'
import type { AppendedReply } from '../../redis/streams/append.js'
import type { Batch } from './batch.js'
import type { HeadOwnership } from './head-ownership.js'
import type { LossError } from './loss.js'
import type { Rejection } from './rejection.js'
import type { StreamQueue } from './stream-queue.js'

export interface PublisherOptions extends HeadOwnership {
  limits: { batchEvents: number; batchBytes: number }
  /** A stream that was not used for so long, in milliseconds, is idle; a minute by default. */
  idleAfterMs?: number
  /** How long after an exhausted stream was refused it is tried again, in milliseconds; a minute by default. */
  readmitAfterMs?: number
  /** Milliseconds after which a command without a reply fails; undefined: as usual. */
  connect(commandTimeout?: number): Promise<RedisClient>
  /** Runs on each new connection before its epoch begins. */
  prepare(client: RedisClient): Promise<void>
  /** Events were appended, or found to be there: `count` of a transaction. */
  done(transaction: number, count: number): void
  /** These cannot be appended. Resolves when they are kept as incidents, and counted as done. */
  reject(rejections: Rejection[], transactions: number[]): Promise<void>
  /** Something failed that must not; the publisher has closed. */
  failed(error: unknown): void
  /** This session cannot continue; the publisher has closed. */
  lost(loss: LossError): void
  /** Fewer events or bytes wait or are in flight. */
  drained(): void
  observe: PublisherObserver
}

export interface PublisherObserver {
  appended(queue: StreamQueue, batch: Batch, reply: AppendedReply, milliseconds: number): void
  /** A row that would be rejected now is in the stream already. */
  known(): void
  /** An epoch ended, and why; undefined when one began, and Redis takes what waits. */
  blocked(reason: string | undefined, message: string): void
}
