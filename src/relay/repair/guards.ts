import type { Redis } from 'ioredis'
import type { RowCount } from '../../postgres/outbox/row-references.js'
import { primaryOf } from '../../redis/client/cluster-nodes.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { HaltError } from '../errors.js'

/** How much of the memory that Redis has left below `maxmemory` a repair, or a request, may take. */
const MAX_MEMORY_SHARE = 0.8
/** An entry takes about so much more than its row's data: measured with small payloads, rounded up. */
const ENTRY_BYTES = 400

/** Is there room for what is missing? `limit`: events; `incident`: what to name in the advice. */
export function requireRoom(missing: RowCount, limit: number, free: number | undefined, incident: string): void {
  const { rows, bytes } = missing
  if (rows > limit) {
    const permit = `outrider incidents repair ${incident} --max ${rows}`
    throw new HaltError(
      'repair_too_large',
      `Expected at most ${limit} events to put back, found ${rows} (${megabytes(bytes)} MB). Nothing is published. ` +
        `To put them back: \`${permit}\`; or raise repairMaxEvents. To leave them out: \`outrider incidents close ${incident}\`.`,
      [permit],
    )
  }
  const lacking = lacksRoom(missing, free)
  if (lacking === undefined) return
  throw new HaltError(
    'repair_lacks_memory',
    `${lacking} Nothing is published. Raise maxmemory, or free memory, and the relay continues by itself. To leave the events out: ` +
      `\`outrider incidents close ${incident}\`.`,
  )
}

/** Why the events must not be appended; undefined: there is room. `free`: bytes below `maxmemory`; undefined: it has no limit. */
export function lacksRoom({ rows, bytes }: RowCount, free: number | undefined): string | undefined {
  const needed = bytes + rows * ENTRY_BYTES
  if (free === undefined || needed <= free * MAX_MEMORY_SHARE) return undefined
  return (
    `Expected room in Redis for ${rows} events, about ${megabytes(needed)} MB, found ${megabytes(free)} MB below maxmemory, ` +
    `of which at most ${MAX_MEMORY_SHARE * 100} % are used for events from the outbox.`
  )
}

const megabytes = (bytes: number): number => Math.ceil(bytes / 1_000_000)

/**
 * Bytes below `maxmemory` for these streams; undefined where there is no limit, or where INFO is not permitted. In a cluster only the
 * primaries that have the streams count: the share of each is taken to be that of its streams, and the primary with the least room
 * for its share decides.
 */
export async function readFreeMemory(client: RedisClient, streams: AsyncIterable<string>): Promise<number | undefined> {
  const counts = new Map<Redis, number>()
  let count = 0
  for await (const stream of streams) {
    const node = primaryOf(client, stream)
    if (node === undefined) throw new Error('Expected a connection to every primary of the cluster, found one missing.')
    counts.set(node, (counts.get(node) ?? 0) + 1)
    count += 1
  }
  const free = await Promise.all(
    [...counts].map(async ([node, streams]) => {
      try {
        const info = await node.info('memory')
        const of = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0)
        const limit = of('maxmemory')
        if (limit === 0) return Number.POSITIVE_INFINITY
        return Math.max(0, limit - of('used_memory')) * (count / streams)
      } catch (error) {
        if ((error as Error).name !== 'ReplyError') throw error
        return Number.POSITIVE_INFINITY
      }
    }),
  )
  const least = Math.min(...free)
  return Number.isFinite(least) ? least : undefined
}

/**
 * An empty Redis at another address is more probably the wrong one than one that lost everything. `known`, `found`: hashes of
 * addresses.
 */
export function requireSameRedis(known: string | null, found: string, incident: string): void {
  if (known === null || known === found) return
  const permit = `outrider incidents repair ${incident}`
  throw new HaltError(
    'other_redis',
    'Expected the Redis that events were published to last, found one at another address that has none of their streams. No ' +
      'event is written to it. Correct the URL; or, if events are to be published to this one from now on, run ' +
      `\`${permit}\`: it puts back what the table still has.`,
    [permit],
  )
}
