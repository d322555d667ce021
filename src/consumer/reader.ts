import { Cluster } from 'ioredis'
import { backoff, pause } from '../backoff.js'
import type { RedisClient } from '../redis/connect.js'
import { entryOf, type Group } from '../redis/group.js'
import { isMissingGroup, type Link } from './link.js'
import type { UnreadWatch } from './read/unread-watch.js'
import type { Worker } from './worker.js'

/** How long a read waits for something new, in milliseconds; a stop waits for it. */
export const BLOCK = 1_000

/** Between two reads that found nothing, where no read can wait: in a cluster, of many nodes at once. */
const POLL = 100

/** How many entries of one stream a read gets at least, when there is room at all. */
const LEAST = 16

export interface ReaderParts {
  worker: Worker
  /** A connection of its own: a read that waits would hold up everything behind it. */
  link: Link
  groups(): readonly Group[]
  /** Room for so many entries; 0 until there is enough of it to be worth a read. */
  room(): number
  /** Called when a group is missing; resolves once there is one again. */
  ensure(): Promise<void>
  onRead(): void
  unread: UnreadWatch
  signal: AbortSignal
}

/** Reads what is new for an unordered group, as long as there is room. */
export async function read(parts: ReaderParts): Promise<void> {
  const { worker, link, signal, room } = parts
  let known: RedisClient | undefined
  let failures = 0
  // What arrives while a read waits is delivered at once; only what arrives between two reads can be trimmed unread.
  let paused = false
  for (let turn = 0; !signal.aborted; turn++) {
    if (worker.blocked || room() <= 0) {
      paused = true
      await worker.changed()
      continue
    }
    const client = await link.client()
    try {
      if (client !== known) {
        // A reply that was lost with the connection is pending with this consumer, and nobody has seen it.
        for (const group of parts.groups()) worker.adopt(group, await group.claim(client, 0, 1_000, true))
        await parts.unread.look(client, parts.groups())
        known = client
        continue
      }
      // After one that was refused each stream is asked for itself: one that refuses is not to cost the others.
      const apart = client instanceof Cluster || failures > 0
      if (paused) void parts.unread.look(client, parts.groups())
      paused = false
      const found = await readOnce(client, rotated(parts.groups(), turn), room(), worker, apart)
      failures = 0
      if (found) parts.onRead()
      else if (apart) await pause(POLL, signal)
    } catch (error) {
      if (isMissingGroup(error)) await parts.ensure()
      else {
        link.fault(client, error)
        await pause(backoff(++failures, 50, 2_000), signal)
        paused = true
      }
    }
  }
}

/** Whether anything was found. */
async function readOnce(
  client: RedisClient,
  groups: readonly Group[],
  room: number,
  worker: Worker,
  apart: boolean,
): Promise<boolean> {
  const [first] = groups
  if (!first) return false
  const receive = (reply: Reply): boolean => {
    for (const [key, entries] of reply) {
      worker.receive(groups.find((group) => group.key === key) as Group, entries.map(entryOf))
    }
    return reply.length > 0
  }
  // Redis counts for each stream alone.
  const count = String(Math.max(Math.ceil(room / groups.length), Math.min(room, LEAST)))
  const args = ['GROUP', first.group, first.consumer, 'COUNT', count]
  if (apart) {
    const each = groups.map(async ({ key }) => receive(await readGroup(client, [...args, 'STREAMS', key, '>'])))
    const outcomes = await Promise.allSettled(each)
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
    return outcomes.some((outcome) => outcome.status === 'fulfilled' && outcome.value)
  }
  const keys = groups.map(({ key }) => key)
  args.push('BLOCK', String(BLOCK), 'STREAMS', ...keys)
  return receive(await readGroup(client, [...args, ...keys.map(() => '>')]))
}

type Reply = [key: string, entries: Parameters<typeof entryOf>[0][]][]

const readGroup = async (client: RedisClient, args: string[]): Promise<Reply> =>
  ((await client.call('XREADGROUP', ...(args as [string, ...string[]]))) ?? []) as Reply

/** Another one first each time, so that a busy stream does not take all the room. */
const rotated = <T>(list: readonly T[], turn: number): T[] => {
  const from = list.length === 0 ? 0 : turn % list.length
  return [...list.slice(from), ...list.slice(0, from)]
}
