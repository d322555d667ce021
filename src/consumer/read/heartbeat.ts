import { pause } from '../../base/backoff.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Worker } from '../delivery/worker.js'
import { type ReconnectingClient, StoppedError } from '../redis/reconnecting-client.js'

export interface HeartbeatParts {
  worker: Pick<Worker, 'idsOf' | 'has' | 'lose' | 'deleted'>
  link: ReconnectingClient
  groups(): readonly ConsumerGroup[]
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
        // What was released since then must not look alive again: it would wait for `claimAfter` until another worker may claim it.
        const held = () => some.filter((id) => worker.has(group, id))
        const found = await link.requestOnce((client) => group.heartbeat(client, held())).catch(unlessStopped)
        worker.lose(group.key, found?.lost ?? [])
        worker.deleted(group, found?.deleted ?? [])
      }
    }
  }
}

/** One stream that refuses must not hold up the others; it is asked again in the next round. */
function unlessStopped(error: unknown): undefined {
  if (error instanceof StoppedError) throw error
}
