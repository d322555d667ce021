import { Cluster } from 'ioredis'
import { backoff, pause } from '../../base/backoff.js'
import type { RedisClient } from '../../redis/client/connect.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { MAX_REPLY_BYTES } from '../delivery/limits.js'
import type { Worker } from '../delivery/worker.js'
import { isMissingGroup, isRefusal, type ReconnectingClient } from '../redis/reconnecting-client.js'
import { BLOCK } from './group-reader.js'
import type { Lease, Leases } from './leases.js'
import { RefusedStreams } from './refused-streams.js'
import type { UnreadWatch } from './unread-watch.js'

/** Between two looks, where none can wait: in a cluster, of many nodes at once. */
const POLL = 100
/** In one look at one partition. */
const MOST = 256

export interface OrderedReaderParts {
  worker: Worker
  leases: Leases
  /** A connection of its own. */
  link: ReconnectingClient
  group(key: string): ConsumerGroup | undefined
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
export async function readInOrder(parts: OrderedReaderParts): Promise<void> {
  const { worker, leases, link, signal } = parts
  let known: RedisClient | undefined
  let failures = 0
  const refused = new RefusedStreams()
  while (!signal.aborted) {
    const held = leases.all().filter(({ key, leaving }) => !leaving && !refused.isPaused(key))
    const open = held.filter(({ key }) => parts.room(key) > 0)
    if (worker.blocked || open.length === 0) {
      await Promise.race([worker.changed(refused.nextMs ?? BLOCK), leases.changed()])
      continue
    }
    const client = await link.client()
    if (client !== known) leases.again()
    known = client
    try {
      const ready = open.filter((lease) => lease.ready)
      // Where a lease has no room, the bell says nothing of it when there is some again.
      const block = Math.ceil(Math.min(open.length < held.length ? POLL : BLOCK, refused.nextMs ?? BLOCK))
      if (ready.length === 0) {
        await bell(client, open, block, signal)
        failures = 0
      } else if (await takeAll(parts, client, ready, refused)) parts.onRead()
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

/** Whether anything was found. Rejects when one failed, after all have answered; one that is refused is taken later, again. */
async function takeAll(
  parts: OrderedReaderParts,
  client: RedisClient,
  leases: readonly Lease[],
  refused: RefusedStreams,
): Promise<boolean> {
  const take = async (lease: Lease): Promise<number> => {
    try {
      const found = await takeOnce(parts, client, lease, leases.length)
      refused.delete(lease.key)
      return found
    } catch (error) {
      if (!isRefusal(error)) throw error
      parts.link.fault(client, error)
      refused.add(lease.key)
      parts.leases.again(lease.key)
      return 0
    }
  }
  const taken = await Promise.allSettled(leases.map(take))
  for (const outcome of taken) if (outcome.status === 'rejected') throw outcome.reason
  return taken.some((outcome) => outcome.status === 'fulfilled' && outcome.value > 0)
}

/** How many entries were found. `beside`: so many leases share the bytes of the replies. */
async function takeOnce(parts: OrderedReaderParts, client: RedisClient, lease: Lease, beside: number): Promise<number> {
  const { worker, leases } = parts
  const group = parts.group(lease.key)
  if (!group) return 0
  const most = Math.min(parts.room(lease.key), MOST)
  if (most <= 0) return 0
  void parts.unread.look(client, [group])
  const maxBytes = Math.max(0, Math.min(parts.roomBytes(), MAX_REPLY_BYTES / beside))
  const reply = await group.readOrdered(client, lease.epoch, most, lease.from, Math.floor(maxBytes))
  if ('fenced' in reply) {
    await leases.raise(lease.key, reply.fenced)
    return 0
  }
  // It was lost while Redis answered: the worker that has it takes these over, too.
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
  // Now and then without a bell, too: something may be pending with someone else.
  for (const lease of leases) {
    lease.ready = rung?.some(([key]) => key === lease.key) === true || now - lease.lookedAt >= BLOCK
  }
}
