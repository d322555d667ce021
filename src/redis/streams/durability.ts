import type { Redis } from 'ioredis'
import { inBatches } from '../../base/in-batches.js'
import type { Head } from '../../event/head.js'
import { headKey } from '../../event/names.js'
import { askedNode, primaries, primaryOf } from '../client/cluster-nodes.js'
import type { RedisClient } from '../client/connect.js'
import { Script } from '../scripts/script.js'

/**
 * What must be true of an event in Redis before it is confirmed to Postgres.
 *
 * memory            in the primary's memory
 * fsync             on the primary's disk: WAITAOF 1 0
 * replicated        in a replica's memory: WAIT 1
 * fsync+replicated  on the disks of the primary and of a replica: WAITAOF 1 1
 *
 * https://redis.io/docs/latest/commands/waitaof/
 */
export type Level = 'memory' | 'fsync' | 'replicated' | 'fsync+replicated'

/** Strongest first: the order in which `auto` tries them. */
export const LEVELS: readonly Level[] = ['fsync+replicated', 'replicated', 'fsync', 'memory']

/** With appendfsync everysec a sync comes within a second or two, on a replica after the primary's. */
const WAIT_MS = 5_000

/** The heads are not what this session published: Redis has lost them, or they are someone else's. */
export class BarrierMismatchError extends Error {
  override name = 'BarrierMismatchError'
}

/** The level was not reached in time. It may be the next time. */
export class DurabilityUnmetError extends Error {
  override name = 'DurabilityUnmetError'
}

/** Heads that are checked and written to at once. */
const HEADS_AT_ONCE = 1_000

const barrier = new Script('barrier.lua', 'includes/position.lua')

export const loadBarrier = (client: RedisClient): Promise<void> => barrier.load(client)

/**
 * Resolves when every head is at or past its position, at the level. Wants a connection of its own: WAIT holds it up.
 * Checks and writes come before WAIT, on the same connections, each time. Throws `BarrierMismatchError`, `DurabilityUnmetError`, or
 * whatever Redis or the connection says.
 */
export async function reachDurability(
  client: RedisClient,
  level: Level,
  session: string,
  lineage: string,
  heads: ReadonlyMap<string, Head>,
): Promise<void> {
  const nodes = new Set<Redis>()
  await inBatches(heads, HEADS_AT_ONCE, async ([stream, { position }]) => {
    const key = headKey(stream, lineage)
    const { found, node } = await writeAt(client, key, [barrier.sha, '1', key, session, position])
    nodes.add(node)
    if (found !== 'OK')
      throw new BarrierMismatchError(`${found} at the head of stream ${stream}, expected ${position}.`)
  })
  await Promise.all([...nodes].map((node) => waitFor(node, level)))
}

/**
 * Runs the barrier where the key is, and says over which connection. WAIT counts what that connection has written, so a cluster's client
 * must not choose it by itself: while a slot moves, some of its keys are on another node than the others.
 */
async function writeAt(client: RedisClient, key: string, args: string[]): Promise<{ found: unknown; node: Redis }> {
  const node = primaryOf(client, key)
  if (!node) throw new DurabilityUnmetError('Expected a connection to every primary, found one missing.')
  try {
    return { found: await barrier.run(node, args), node }
  } catch (error) {
    const other = askedNode(client, error)
    if (!other) throw error
    void other.asking()
    return { found: await barrier.run(other, args), node: other }
  }
}

/** Does the level work here? Writes a key that expires and waits for it. Throws as `reachDurability` does. */
export async function tryLevel(client: RedisClient, level: Level, lineage: string): Promise<void> {
  const key = `outrider:{trial}:${lineage}`
  // Spares the wait for replicas that do not exist. The heads may be on any primary: each of them needs one.
  if (level.includes('replicated')) await Promise.all(primaries(client).map(requireReplica))
  await client.set(key, level, 'PX', 60_000)
  const node = primaryOf(client, key)
  if (node) await waitFor(node, level)
}

async function requireReplica(node: Redis): Promise<void> {
  if (!/connected_slaves:0\b/.test(await node.info('replication'))) return
  throw new DurabilityUnmetError('Expected a replica of Redis, found none.')
}

async function waitFor(node: Redis, level: Level): Promise<void> {
  if (level === 'memory') return
  const replicas = level === 'fsync' ? 0 : 1
  // Both return what was reached also when the time is over.
  const [local, remote] =
    level === 'replicated'
      ? [1, await node.wait(replicas, WAIT_MS)]
      : ((await node.call('WAITAOF', '1', `${replicas}`, `${WAIT_MS}`)) as [number, number])
  if (local < 1)
    throw new DurabilityUnmetError(`Expected Redis to sync to disk within ${WAIT_MS} ms, found that it did not.`)
  if (remote < replicas) {
    throw new DurabilityUnmetError(`Expected a replica to acknowledge within ${WAIT_MS} ms, found none that did.`)
  }
}
