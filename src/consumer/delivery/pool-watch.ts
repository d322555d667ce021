import { pause } from '../../base/backoff.js'

const LOOK_EVERY_MS = 1_000
/** A line in a minute. */
const LOOKS_PER_LINE = 60

export interface PoolWatch {
  /** All calls of handlers that may run do run. */
  isBusy(): boolean
  /** Requests of others than the library that wait for a connection of the pool. */
  waiting(): number
  onStarved(): void
  warn(waiting: number): void
  signal: AbortSignal
}

/**
 * Looks for handlers that ask the pool for a connection while all of it serves their own transactions: each waits for the others,
 * without end and without an error. The pool has no event for that, so it is looked at; twice in a row counts.
 */
export async function watchPool({ isBusy, waiting, onStarved, warn, signal }: PoolWatch): Promise<void> {
  let looks = 0
  while (!signal.aborted) {
    await pause(LOOK_EVERY_MS, signal)
    const requests = waiting()
    looks = isBusy() && requests > 0 ? looks + 1 : 0
    if (looks < 2) continue
    onStarved()
    if (looks % LOOKS_PER_LINE === 2) warn(requests)
  }
}
