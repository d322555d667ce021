import { Cluster } from 'ioredis'
import { backoff, pause } from '../backoff.js'
import type { RedisClient } from '../redis/connect.js'
import { entryOf, type Group } from '../redis/group.js'
import { isMissingGroup, type Link } from './link.js'
import { ReadSize } from './read/read-size.js'
import type { UnreadWatch } from './read/unread-watch.js'
import type { Worker } from './worker.js'

/** How long a read waits for something new, in milliseconds; a stop waits for it. */
export const BLOCK = 1_000

/** Between two reads that found nothing, where no read can wait: in a cluster, of many nodes at once. */
const POLL = 100

/** How many entries of one stream a read gets at least, when there is room at all. */
const LEAST = 16

/** Of one stream, on a new connection. */
const MAX_OWN = 1_000
const OWN_PAGE = 100

export interface ReaderParts {
  worker: Worker
  /** A connection of its own: a read that waits would hold up everything behind it. */
  link: Link
  groups(): readonly Group[]
  /** Room for so many entries; 0 until there is enough of it to be worth a read. */
  room(): number
  /** For the payloads of these. */
  roomBytes(): number
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
  const size = new ReadSize()
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
        for (const group of parts.groups()) await adoptOwn(client, group, worker)
        await parts.unread.look(client, parts.groups())
        known = client
        continue
      }
      // After one that was refused each stream is asked for itself: one that refuses is not to cost the others.
      const apart = client instanceof Cluster || failures > 0
      if (paused) void parts.unread.look(client, parts.groups())
      paused = false
      const found = await readOnce(client, rotated(parts.groups(), turn), parts, size, apart)
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

/**
 * A reply that was lost with the connection is pending with this consumer, and nobody has seen it. It comes without payloads, and what
 * is held is recognised. What is not taken now will be claimed like anybody's.
 */
async function adoptOwn(client: RedisClient, group: Group, worker: Worker): Promise<void> {
  let after = ''
  for (let most = MAX_OWN; most > 0; most -= OWN_PAGE) {
    const own = await group.own(client, after, OWN_PAGE)
    worker.adopt(group, own)
    after = own.at(-1)?.id ?? ''
    if (own.length < OWN_PAGE) return
  }
}

/** Whether anything was found. */
async function readOnce(
  client: RedisClient,
  groups: readonly Group[],
  parts: ReaderParts,
  size: ReadSize,
  apart: boolean,
): Promise<boolean> {
  const [first] = groups
  if (!first) return false
  const room = parts.room()
  // Redis counts for each stream alone.
  const wanted = Math.max(Math.ceil(room / groups.length), Math.min(room, LEAST))
  const count = size.next(wanted, groups.length, parts.roomBytes())
  const receive = (reply: Reply): boolean => {
    for (const [key, entries] of reply) {
      const sizes = parts.worker.receive(groups.find((group) => group.key === key) as Group, entries.map(entryOf))
      size.note(sizes, count)
    }
    return reply.length > 0
  }
  const args = ['GROUP', first.group, first.consumer, 'COUNT', String(count)]
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
