import { every } from '../../base/interval.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import type { TransactionTracker } from '../confirm/transaction-tracker.js'

/** Interval of the standby status, in milliseconds: a third of `wal_sender_timeout`, at most 10 s. */
export const standbyStatusInterval = (walSenderTimeout: number): number =>
  walSenderTimeout > 0 ? Math.max(200, Math.min(walSenderTimeout / 3, 10_000)) : 10_000

/** After so long without a byte, though replies were requested, the server counts as dead, in milliseconds. */
export const inboundTimeout = (walSenderTimeout: number): number =>
  Math.max(10_000, 4 * standbyStatusInterval(walSenderTimeout))

const IDLE_BYTES = 1n << 20n
const IDLE_EVERY = 10_000
/** More than the relay's own bookkeeping writes: it must not give itself reason to write again. */
const OWN_BYTES = 16n << 10n

/**
 * With nothing in flight, is it time to confirm the WAL that others wrote? At most every 10 s or 1 MiB, and never for
 * what confirming itself has written. `since`: milliseconds since something was last confirmed.
 */
export function worthConfirming(walEnd: Lsn, confirmed: Lsn, since: number): boolean {
  const ahead = walEnd - confirmed
  return ahead >= IDLE_BYTES || (ahead >= OWN_BYTES && since >= IDLE_EVERY)
}

export interface StandbyStatusOptions {
  stream: { status(flushed: Lsn, replyRequested?: boolean): void }
  walSenderTimeoutMs: number
  tracker: TransactionTracker
  /** The position that the slot has confirmed. */
  confirmed: Lsn
  /** When the session began, by `performance.now()`: nothing was confirmed since. */
  beganAt: number
  /** Up to where transactions were taken to be confirmed. */
  taken(): Lsn
  /** The LSN whose confirmation a repair waits for, however little WAL was written; 0: none. */
  awaited(): Lsn
}

/**
 * Tells the server what is confirmed: at an interval, in reply to a keepalive, and when more is confirmed.
 * https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-STANDBY-STATUS-UPDATE
 */
export class StandbyStatus {
  readonly #options: StandbyStatusOptions
  #confirmed: Lsn
  #confirmedAt: number

  constructor(options: StandbyStatusOptions) {
    this.#options = options
    this.#confirmed = options.confirmed
    this.#confirmedAt = options.beganAt
  }

  /** Sends a status at the interval until the signal aborts. */
  start(signal: AbortSignal): void {
    every(standbyStatusInterval(this.#options.walSenderTimeoutMs), () => this.requestReply(), signal)
  }

  confirm(lsn: Lsn): void {
    this.#confirmed = lsn
    this.#confirmedAt = performance.now()
    this.#options.stream.status(lsn)
  }

  requestReply(): void {
    this.#options.stream.status(this.#confirmed, true)
  }

  /** With nothing in flight, WAL that others wrote is confirmed too: an idle outbox holds none. */
  keepalive(walEnd: Lsn, replyRequested: boolean): void {
    const { stream, tracker, taken, awaited } = this.#options
    const since = performance.now() - this.#confirmedAt
    const isAwaited = taken() < awaited() && awaited() <= walEnd
    if (tracker.idle && (isAwaited || worthConfirming(walEnd, taken(), since))) tracker.reached(walEnd)
    if (replyRequested) stream.status(this.#confirmed)
  }
}
