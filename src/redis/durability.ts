import { Cluster, Command, type Redis } from 'ioredis'
import type { Head } from '../event/head.js'
import { headKey } from '../event/names.js'
import { inBatches } from '../in-batches.js'
import type { RedisClient } from './connect.js'
import { Script } from './script.js'

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

/** The heads are not what this session published: Redis has lost them, or they are somebody else's. */
export class BarrierBroken extends Error {
  override name = 'BarrierBroken'
}

/** The level was not reached in time. It may be the next time. */
export class LevelUnmet extends Error {
  override name = 'LevelUnmet'
}

/** Heads that are checked and written to at once. */
const HEADS_AT_ONCE = 1_000

const barrier = new Script('barrier.lua', 'position.lua')

export const loadBarrier = (client: RedisClient): Promise<void> => barrier.load(client)

/**
 * Resolves when every head is at or past its position, at the level. Wants a connection of its own: WAIT holds it up.
 * Checks and writes come before WAIT, on the same connections, each time. Throws `BarrierBroken`, `LevelUnmet`, or
 * whatever Redis or the connection says.
 */
export async function reachDurability(
  client: RedisClient,
  level: Level,
  session: string,
  lineage: string,
  heads: ReadonlyMap<string, Head>,
): Promise<void> {
  const keys: string[] = []
  await inBatches(heads, HEADS_AT_ONCE, async ([stream, { position }]) => {
    const key = headKey(stream, lineage)
    keys.push(key)
    const found = await barrier.run(client, [barrier.sha, '1', key, session, position])
    if (found !== 'OK') throw new BarrierBroken(`${found} at the head of stream ${stream}, expected ${position}.`)
  })
  await Promise.all(nodesOf(client, keys).map((node) => waitFor(node, level)))
}

/** Does the level work here? Writes a key that expires and waits for it. Throws as `reachDurability` does. */
export async function tryLevel(client: RedisClient, level: Level, lineage: string): Promise<void> {
  const key = `outrider:{trial}:${lineage}`
  await client.set(key, level, 'PX', 60_000)
  await Promise.all(
    nodesOf(client, [key]).map(async (node) => {
      // Spares the wait for replicas that do not exist.
      if (level.includes('replicated') && /connected_slaves:0\b/.test(await node.info('replication'))) {
        throw new LevelUnmet('Expected a replica of Redis, found none.')
      }
      await waitFor(node, level)
    }),
  )
}

async function waitFor(node: Redis, level: Level): Promise<void> {
  if (level === 'memory') return
  const replicas = level === 'fsync' ? 0 : 1
  // Both return what was reached also when the time is over.
  const [local, remote] =
    level === 'replicated'
      ? [1, await node.wait(replicas, WAIT_MS)]
      : ((await node.call('WAITAOF', '1', `${replicas}`, `${WAIT_MS}`)) as [number, number])
  if (local < 1) throw new LevelUnmet(`Expected Redis to sync to disk within ${WAIT_MS} ms, found that it did not.`)
  if (remote < replicas) {
    throw new LevelUnmet(`Expected a replica to acknowledge within ${WAIT_MS} ms, found none that did.`)
  }
}

/** The connections over which a client reaches these keys. */
function nodesOf(client: RedisClient, keys: string[]): Redis[] {
  if (!(client instanceof Cluster)) return [client]
  const names = new Set(keys.map((key) => client.slots[new Command('get', [key]).getSlot() ?? -1]?.[0]))
  const nodes = client.nodes('master').filter(({ options }) => names.has(`${options.host}:${options.port}`))
  if (nodes.length < names.size) throw new LevelUnmet('Expected a connection to every primary, found one missing.')
  return nodes
}
