import type { RedisClient } from '../redis/client/connect.js'
import type { ConsumerGroup } from '../redis/streams/consumer-group.js'
import type { Worker } from './delivery/worker.js'
import type { Loops } from './loops.js'
import type { ConsumerLogger } from './options.js'
import { BLOCK } from './read/group-reader.js'
import type { Leases } from './read/leases.js'
import type { ReconnectingClient } from './redis/reconnecting-client.js'
import { LAST_WORDS, withTimeout } from './with-timeout.js'

export interface ShutdownParts {
  worker: Worker
  loops: Loops
  leases: Leases | undefined
  /** For requests, and for reads that wait. */
  asking: ReconnectingClient
  reading: ReconnectingClient
  /** Those of the streams, and of their waiting streams. */
  groups(): readonly ConsumerGroup[]
  /** Aborted once nothing runs any more: it ends the loops that keep what is held. */
  ending: AbortController
  log: ConsumerLogger
}

/**
 * Ends a consumer whose readers were told to stop. What runs may finish, within `timeout` milliseconds; the rest is released, then the
 * leases and the names of the consumer. A server that is gone is waited for a moment only. Never rejects.
 */
export async function shutDown(timeout: number, parts: ShutdownParts): Promise<void> {
  const { worker, loops, leases, asking, reading, ending, log } = parts
  // It also wakes a reader that waits for room. Entries that a read under way still gets are released with the rest.
  await Promise.all([worker.finish(timeout), withTimeout(loops.readersEnded(), BLOCK + LAST_WORDS)])
  reading.close()
  await worker.close()
  await withTimeout(leases?.leave() ?? Promise.resolve(), LAST_WORDS).catch((error) => {
    log.warn({ err: error }, 'the leases could not be given back; they pass on when they have run out')
  })
  await removeNames(parts)
  ending.abort()
  asking.close()
  await withTimeout(loops.ended(), LAST_WORDS)
}

async function removeNames({ asking, groups }: ShutdownParts): Promise<void> {
  const all = groups()
  // Stopped while it connected for the first time: no group has its name.
  if (all.length === 0) return
  const remove = (client: RedisClient) =>
    Promise.allSettled(all.map((group) => group.removeIdleConsumers(client, Number.MAX_SAFE_INTEGER, true)))
  await withTimeout(asking.client().then(remove), LAST_WORDS).catch(() => {})
}
