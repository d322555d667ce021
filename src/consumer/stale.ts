import { pause } from '../backoff.js'
import type { Group } from '../redis/group.js'
import { type Link, StoppedError } from './link.js'
import type { Worker } from './worker.js'

export interface StaleParts {
  worker: Worker
  link: Link
  groups(): readonly Group[]
  room(): number
  /** Milliseconds. */
  claimAfter: number
  signal: AbortSignal
}

const LONGEST_BETWEEN_CLAIMS = 5_000
const MOST_IN_ONE_CLAIM = 100
const MOST_IN_ONE_BEAT = 200

/** Takes over, now and then, what no worker gives a sign of life for. */
export async function claimStale({ worker, link, groups, room, claimAfter, signal }: StaleParts): Promise<void> {
  while (!signal.aborted) {
    const between = Math.min(claimAfter / 4, LONGEST_BETWEEN_CLAIMS)
    // Not all workers at once.
    await pause(between * (0.75 + Math.random() / 2), signal)
    for (const group of groups()) {
      const most = Math.min(room(), MOST_IN_ONE_CLAIM)
      if (most <= 0 || worker.blocked || signal.aborted) break
      const taken = await link.once((client) => group.claim(client, claimAfter, most)).catch(unlessStopped)
      worker.adopt(group, taken ?? [])
    }
  }
}

/** Says for all that is held here that it is not forgotten; what another worker has is let go of. */
export async function beat({ worker, link, groups, claimAfter, signal }: StaleParts): Promise<void> {
  while (!signal.aborted) {
    await pause(claimAfter / 3, signal)
    for (const group of groups()) {
      const ids = worker.idsOf(group)
      for (let from = 0; from < ids.length && !signal.aborted; from += MOST_IN_ONE_BEAT) {
        const some = ids.slice(from, from + MOST_IN_ONE_BEAT)
        const lost = await link.once((client) => group.beat(client, some)).catch(unlessStopped)
        worker.lose(group.key, lost ?? [])
      }
    }
  }
}

/** What one stream refuses must not hold up the others; it is asked again with the next round. */
function unlessStopped(error: unknown): undefined {
  if (error instanceof StoppedError) throw error
}
