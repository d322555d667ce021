import { Cluster } from 'ioredis'
import { backoff, pause } from '../backoff.js'
import type { RedisClient } from '../redis/connect.js'
import type { Group } from '../redis/group.js'
import type { Lease, Leases } from './leases.js'
import { MAX_REPLY_BYTES } from './limits.js'
import { isMissingGroup, type Link } from './link.js'
import type { UnreadWatch } from './read/unread-watch.js'
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
  /** For the payloads of new entries. */
  roomBytes(): number
  ensure(): Promise<void>
  onRead(): void
  unread: UnreadWatch
  signal: AbortSignal
}

/**
 * Reads for an ordered group what this worker holds: of each partition first what is pending, in order, then what is new, and
 * both in one script, so that nothing can come in between. Waits for new entries without taking them.
 */
export async function takeInOrder(parts: TakeParts): Promise<void> {
  const { worker, leases, link, signal } = parts
  let known: RedisClient | undefined
  let failures = 0
  while (!signal.aborted) {
    const open = leases.all().filter(({ key, leaving }) => !leaving && parts.room(key) > 0)
    if (worker.blocked || open.length === 0) {
      await Promise.race([worker.changed(), leases.changed()])
      continue
    }
    const client = await link.client()
    if (client !== known) leases.again()
    known = client
    try {
      const ready = open.filter((lease) => lease.ready)
      // Where a lease has no room, the bell says nothing of it when there is some again.
      const full = leases.all().some(({ key, leaving }) => !leaving && parts.room(key) <= 0)
      if (ready.length === 0) await bell(client, open, full ? POLL : BLOCK, signal)
      else if (await takeAll(parts, client, ready)) parts.onRead()
      failures = 0
    } catch (error) {
      // What the reply that failed has delivered, if it has, is pending here, and is taken again.
      leases.again()
      if (isMissingGroup(error)) await parts.ensure()
      else {
        link.fault(client, error)
        await pause(backoff(++failures, 50, 2_000), signal)
      }
    }
  }
}

/** Whether anything was found. Rejects when one failed, after all have answered. */
async function takeAll(parts: TakeParts, client: RedisClient, leases: readonly Lease[]): Promise<boolean> {
  const taken = await Promise.allSettled(leases.map((lease) => takeOnce(parts, client, lease, leases.length)))
  for (const outcome of taken) if (outcome.status === 'rejected') throw outcome.reason
  return taken.some((outcome) => outcome.status === 'fulfilled' && outcome.value > 0)
}

/** How many entries were found. `beside`: so many leases share the bytes of the replies. */
async function takeOnce(parts: TakeParts, client: RedisClient, lease: Lease, beside: number): Promise<number> {
  const { worker, leases } = parts
  const group = parts.group(lease.key)
  if (!group) return 0
  const most = Math.min(parts.room(lease.key), MOST)
  if (most <= 0) return 0
  void parts.unread.look(client, [group])
  const maxBytes = Math.max(0, Math.min(parts.roomBytes(), MAX_REPLY_BYTES / beside))
  const reply = await group.take(client, lease.epoch, most, lease.from, Math.floor(maxBytes))
  if ('fenced' in reply) {
    await leases.raise(lease.key, reply.fenced)
    return 0
  }
  // It was lost while Redis answered: whoever has it takes these over, too.
  if (leases.get(lease.key) !== lease || lease.leaving) return 0
  const { complete, taken, fresh, last, more } = reply
  worker.adopt(group, taken)
  worker.receive(group, fresh)
  const found = taken.length + fresh.length
  if (lease.from !== '') lease.from = complete ? '' : `(${taken.at(-1)?.id ?? lease.from.slice(1)}`
  lease.ready = more || !complete
  lease.last = last ?? lease.last
  lease.lookedAt = performance.now()
  return found
}

/** Resolves when something new is in one of the streams, or after a while. */
async function bell(client: RedisClient, leases: readonly Lease[], block: number, signal: AbortSignal): Promise<void> {
  if (client instanceof Cluster) {
    await pause(POLL, signal)
    for (const lease of leases) lease.ready = true
    return
  }
  const keys = leases.map(({ key }) => key)
  const last = leases.map(({ last }) => last)
  const args = ['COUNT', '1', 'BLOCK', String(block), 'STREAMS', ...keys, ...last] as [string, ...string[]]
  const rung = (await client.call('XREAD', ...args)) as [key: string, entries: unknown][] | null
  const now = performance.now()
  // Now and then without a bell, too: something may be pending with somebody else.
  for (const lease of leases) {
    lease.ready = rung?.some(([key]) => key === lease.key) === true || now - lease.lookedAt >= BLOCK
  }
}
