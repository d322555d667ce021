import { Cluster } from 'ioredis'
import { backoff, pause } from '../backoff.js'
import type { RedisClient } from '../redis/connect.js'
import { type Entry, entryOf, type Group } from '../redis/group.js'
import { MAX_REPLY_BYTES } from './limits.js'
import { isMissingGroup, type Link } from './link.js'
import type { Capacity } from './read/capacity.js'
import { ReadSize } from './read/read-size.js'
import type { UnreadWatch } from './read/unread-watch.js'
import type { Worker } from './worker.js'

/** How long a read waits for something new, in milliseconds; a stop waits for it. */
export const BLOCK = 1_000

/** Between two reads that found nothing, where no read can wait: in a cluster, of many nodes at once. */
const POLL = 100

/** The least that a read waits for some streams while others are full: these are read about as often. */
const MIN_BLOCK = 5

/** Entries of one stream in one read: a script keeps all others waiting. */
const MAX_READ = 2_048

/** Of one stream, on a new connection. */
const MAX_OWN = 1_000
const OWN_PAGE = 100

export interface ReaderParts {
  worker: Worker
  /** A connection of its own: a read that waits would hold up everything behind it. */
  link: Link
  groups(): readonly Group[]
  /** Of each stream. */
  capacity: Pick<Capacity, 'rooms' | 'busyFor'>
  /** For the payloads of these. */
  roomBytes(): number
  /** Called when a group is missing; resolves once there is one again. */
  ensure(): Promise<void>
  onRead(): void
  unread: UnreadWatch
  signal: AbortSignal
}

/** Reads what is new for an unordered group, of each stream as long as there is room. */
export async function read(parts: ReaderParts): Promise<void> {
  const { worker, link, signal, capacity } = parts
  let known: RedisClient | undefined
  let failures = 0
  // Reads in a row that found nothing.
  let empty = 0
  const sizes = new Map<string, ReadSize>()
  // What arrives while a read waits is delivered at once; only what arrives between two reads can be trimmed unread.
  let paused = false
  for (let turn = 0; !signal.aborted; turn++) {
    const all = rotated(parts.groups(), turn)
    const rooms = capacity.rooms(all.map(({ stream }) => stream))
    const wanted = all.map((group, place) => ({ group, count: rooms[place] as number }))
    const open = wanted.filter(({ count }) => count > 0)
    if (worker.blocked || open.length === 0) {
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
      const found = await readOnce(client, wanted, parts, sizes, apart, empty)
      empty = found ? 0 : empty + 1
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
 * A reply that was lost with the connection is pending with this consumer, and no handler has seen it. It comes without payloads, and what
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

interface Wanted {
  group: Group
  /** Entries; 0 where there is no room. */
  count: number
}

/** Whether anything was found. */
async function readOnce(
  client: RedisClient,
  wanted: readonly Wanted[],
  parts: ReaderParts,
  sizes: Map<string, ReadSize>,
  apart: boolean,
  empty: number,
): Promise<boolean> {
  const open = wanted.filter(({ count }) => count > 0)
  const maxBytes = Math.min(parts.roomBytes(), MAX_REPLY_BYTES)
  const receive = (group: Group, entries: readonly Entry[], hasMore: boolean): boolean => {
    sizeOf(sizes, group).note(parts.worker.receive(group, entries), hasMore)
    return entries.length > 0
  }
  if (apart || open.some(({ group }) => sizeOf(sizes, group).hasMore)) {
    const share = Math.max(0, Math.floor(maxBytes / open.length))
    const each = open.map(async ({ group, count }) => {
      const { fresh, more } = await group.read(client, Math.min(count, MAX_READ), share)
      return receive(group, fresh, more)
    })
    const outcomes = await Promise.allSettled(each)
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
    const found = outcomes.some((outcome) => outcome.status === 'fulfilled' && outcome.value)
    if (apart || found) return found
  }
  const busy = wanted.filter(({ count }) => count === 0).map(({ group }) => parts.capacity.busyFor(group.stream))
  // Longer each time while the full ones stay full.
  const block = Math.ceil(Math.min(BLOCK, Math.max(MIN_BLOCK, Math.min(...busy)) * 2 ** Math.min(empty, 10)))
  // Redis counts for each stream alone, and knows one count for all.
  const counts = open.map(({ group, count }) => sizeOf(sizes, group).unbounded(count, open.length, maxBytes))
  const count = Math.min(...counts)
  const groups = open.map(({ group }) => group)
  const reply = await readGroup(client, groups, count, block)
  for (const [key, entries] of reply) {
    const group = groups.find((each) => each.key === key) as Group
    receive(group, entries.map(entryOf), entries.length >= count)
  }
  return reply.length > 0
}

function sizeOf(sizes: Map<string, ReadSize>, { key }: Group): ReadSize {
  const size = sizes.get(key) ?? new ReadSize()
  sizes.set(key, size)
  return size
}

type Reply = [key: string, entries: Parameters<typeof entryOf>[0][]][]

async function readGroup(client: RedisClient, groups: readonly Group[], count: number, block: number): Promise<Reply> {
  const [{ group, consumer }] = groups as [Group]
  const args: [string, ...string[]] = ['GROUP', group, consumer, 'COUNT', String(count), 'BLOCK', String(block)]
  args.push('STREAMS', ...groups.map(({ key }) => key), ...groups.map(() => '>'))
  return ((await client.call('XREADGROUP', ...args)) ?? []) as Reply
}

/** Another one first each time, so that a busy stream does not take all the room. */
const rotated = <T>(list: readonly T[], turn: number): T[] => {
  const from = list.length === 0 ? 0 : turn % list.length
  return [...list.slice(from), ...list.slice(0, from)]
}
