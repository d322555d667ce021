import { pause } from '../base/backoff.js'
import type { ConsumerLogger } from './options.js'
import { StoppedError } from './redis/reconnecting-client.js'

const AFTER_A_BUG_MS = 1_000

/** Runs a loop until the signal. An error would end the consumer in silence, so the loop starts again. */
export async function keepRunning(log: ConsumerLogger, signal: AbortSignal, loop: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    try {
      await loop()
    } catch (error) {
      if (error instanceof StoppedError) return
      log.error({ err: error }, 'a bug in Outrider: please report it')
      await pause(AFTER_A_BUG_MS, signal)
    }
  }
}
