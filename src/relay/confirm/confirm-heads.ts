import { pause } from '../../base/backoff.js'
import type { Head } from '../../event/head.js'
import { BarrierMismatchError, type Level } from '../../redis/streams/durability.js'
import { Confirmer, MEMORY_DELAY } from './confirmer.js'
import type { DurabilityBarrier } from './durability-barrier.js'

/** The pause after a level that was not met. */
const RETRY_MS = 500

/**
 * Waits until these heads are durable, at the level that positions are confirmed at; `auto` looks for it. The delay of level
 * `memory` is not waited for: what an ordinary failover loses is found as a gap. Resolves with false if the signal aborts before that. Rejects
 * with a BarrierMismatchError where Redis does not have these heads: it has lost them meanwhile. Closes the barrier.
 */
export async function confirmHeads(
  heads: ReadonlyMap<string, Head>,
  options: { level: Level | 'auto'; barrier: DurabilityBarrier; signal: AbortSignal; unmet(error: Error): void },
): Promise<boolean> {
  const { level, barrier, signal, unmet } = options
  if (heads.size === 0) return true
  let isTaken = false
  let isDurable = false
  let mismatch: BarrierMismatchError | undefined
  const confirmer = new Confirmer(
    {
      level,
      take: () => {
        if (isTaken) return undefined
        isTaken = true
        return { lsn: 1n, heads: new Map(heads) }
      },
      tryLevel: (each) => barrier.try(each),
      reachDurability: (each, all) =>
        barrier.reach(each, all).catch((error) => {
          if (error instanceof BarrierMismatchError) mismatch = error
          throw error
        }),
      save: async () => {
        isDurable = true
      },
      confirm: () => {},
      observe: { level: () => {}, waited: () => {}, unmet: (error) => error && unmet(error) },
    },
    0n,
  )
  // Rounds as if the delay had passed between each two.
  try {
    for (let now = 0; !isDurable; now += MEMORY_DELAY) {
      await confirmer.round(now)
      if (mismatch) throw mismatch
      if (isDurable || signal.aborted) break
      if (now > 0) await pause(RETRY_MS, signal)
    }
  } finally {
    barrier.close()
  }
  return isDurable
}
