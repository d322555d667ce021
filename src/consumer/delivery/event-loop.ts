import { pause } from '../../base/backoff.js'
import type { ConsumerLogger } from '../options.js'

export interface EventLoopWatch {
  log: ConsumerLogger
  /** Milliseconds. */
  claimAfter: number
  /** Calls of handlers. */
  running(): number
  signal: AbortSignal
}

const MAX_TICK_MS = 1_000

/**
 * Warns when nothing could run in this process for a third of `claimAfter` or more: the heartbeat of what this worker holds was
 * late, and after `claimAfter` other workers take it over. The length is exact to a tenth of `claimAfter`, at most a second.
 */
export async function watchEventLoop({ log, claimAfter, running, signal }: EventLoopWatch): Promise<void> {
  const tick = Math.min(claimAfter / 10, MAX_TICK_MS)
  while (!signal.aborted) {
    const began = performance.now()
    await pause(tick, signal)
    const blockedMs = Math.round(performance.now() - began - tick)
    if (blockedMs < claimAfter / 3) continue
    log.warn(
      { blockedMs, claimAfterMs: claimAfter, running: running() },
      'the event loop was blocked; after claimAfter other workers take over what this one holds. Compute in a worker thread, or raise claimAfter',
    )
  }
}
