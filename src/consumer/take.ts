import { Cluster } from 'ioredis'
import { backoff, pause } from '../backoff.js'
import type { RedisClient } from '../redis/connect.js'
import type { Group } from '../redis/group.js'
import type { Lease, Leases } from './leases.js'
import { isMissingGroup, type Link } from './link.js'
import { BLOCK } from './reader.js'
import type { Worker } from './worker.js'

/** Between two looks, where none can wait: in a cluster, of many nodes at once. */
const POLL = 100
/** In one look at one partition. */
const MOST = 256

export interface TakeParts {
  worker: Worker
  leases: Leases
  /** A connection of its own. */
  link: Link
  group(key: string): Group | undefined
  /** Room for so many entries of this stream. */
  room(key: string): number
  ensure(): Promise<void>
  onRead(): void
  signal: AbortSignal
}

/**
 * Reads for an ordered group what this worker holds: of each partition first what is pending, in order, then what is new, and
 * both in one script, so that nothing can come in between. Waits for new entries without taking them.
 */
export async function takeInOrder(parts: TakeParts): Promise<void> {
  const { worker, leases, link, signal } = parts
  let failures = 0
  while (!signal.aborted) {
    const open = leases.all().filter(({ key, leaving }) => !leaving && parts.room(key) > 0)
    if (worker.blocked || open.length === 0) {
      await Promise.race([worker.changed(), leases.changed()])
      continue
    }
    const client = await link.client()
    try {
      let found = 0
      for (const lease of open) found += await takeOnce(parts, client, lease)
      if (found > 0) parts.onRead()
      else await bell(client, open, signal)
      failures = 0
    } catch (error) {
      if (isMissingGroup(error)) await parts.ensure()
      else {
        link.fault(client, error)
        await pause(backoff(++failures, 50, 2_000), signal)
      }
    }
  }
}

/** How many entries were found. */
async function takeOnce(parts: TakeParts, client: RedisClient, lease: Lease): Promise<number> {
  const { worker, leases } = parts
  const group = parts.group(lease.key)
  if (!group) return 0
  const reply = await group.take(client, lease.epoch, Math.min(parts.room(lease.key), MOST), lease.from)
  if ('fenced' in reply) {
    await leases.raise(lease.key, reply.fenced)
    return 0
  }
  // It was lost while Redis answered: whoever has it takes these over, too.
  if (leases.get(lease.key) !== lease || lease.leaving) return 0
  const { complete, taken, fresh } = reply
  worker.adopt(group, taken)
  worker.receive(group, fresh)
  // With no room by now nothing was taken, and it goes on from where it was.
  const last = taken.at(-1)
  if (lease.from !== '') lease.from = complete ? '' : last ? `(${last.id}` : lease.from
  lease.last = fresh.at(-1)?.id ?? lease.last
  return taken.length + fresh.length
}

/** Resolves when one of the streams has something new, or after a while. */
async function bell(client: RedisClient, leases: readonly Lease[], signal: AbortSignal): Promise<void> {
  if (client instanceof Cluster) return pause(POLL, signal)
  const keys = leases.map(({ key }) => key)
  await client.call(
    'XREAD',
    'COUNT',
    '1',
    'BLOCK',
    String(BLOCK),
    'STREAMS',
    ...keys,
    ...leases.map(({ last }) => last),
  )
}
