import { pause } from '../../backoff.js'
import type { Group } from '../../redis/group.js'
import { type Link, StoppedError } from '../link.js'
import type { Worker } from '../worker.js'

export interface HeartbeatParts {
  worker: Pick<Worker, 'idsOf' | 'lose'>
  link: Link
  groups(): readonly Group[]
  /** Milliseconds. */
  claimAfter: number
  signal: AbortSignal
}

const MAX_IDS = 200

/** Keeps all that is held here from being claimed; what another worker has claimed is dropped. */
export async function heartbeat({ worker, link, groups, claimAfter, signal }: HeartbeatParts): Promise<void> {
  while (!signal.aborted) {
    await pause(claimAfter / 3, signal)
    for (const group of groups()) {
      const ids = worker.idsOf(group)
      for (let from = 0; from < ids.length && !signal.aborted; from += MAX_IDS) {
        const some = ids.slice(from, from + MAX_IDS)
        const lost = await link.once((client) => group.beat(client, some)).catch(unlessStopped)
        worker.lose(group.key, lost ?? [])
      }
    }
  }
}

/** One stream that refuses must not hold up the others; it is asked again in the next round. */
function unlessStopped(error: unknown): undefined {
  if (error instanceof StoppedError) throw error
}
