import type { Logger } from '../telemetry/log.js'
import type { Metrics } from '../telemetry/metrics.js'
import type { StateStore } from './confirm/state-store.js'
import type { Rejection } from './sink/rejection.js'

export interface RejectionsOptions {
  stateStore: StateStore
  /** Counts rows of a transaction as done. */
  done(transaction: number, count: number): void
  metrics: Metrics
  log: Logger
}

/** Rows that cannot be published are kept in Postgres before they count as appended. `transactions`: one for each row. */
export async function keepRejections(
  rejections: Rejection[],
  transactions: number[],
  { stateStore, done, metrics, log }: RejectionsOptions,
): Promise<void> {
  await stateStore.reject(rejections)
  for (const { reason, stream, eventId } of rejections) {
    metrics.rejected(reason)
    log.warn({ reason, stream, eventId }, 'event rejected: see outrider incidents')
  }
  for (const transaction of transactions) done(transaction, 1)
}
