import type { Lsn } from '../postgres/lsn.js'

/** How often the server hears of the relay, in milliseconds: three times within its patience, 10 s where it has no end. */
export const statusInterval = (walSenderTimeout: number): number =>
  walSenderTimeout > 0 ? Math.max(200, Math.min(walSenderTimeout / 3, 10_000)) : 10_000

/** After so long without a byte, though answers were asked for, the server is taken for dead, in milliseconds. */
export const silenceLimit = (walSenderTimeout: number): number => Math.max(10_000, 4 * statusInterval(walSenderTimeout))

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
