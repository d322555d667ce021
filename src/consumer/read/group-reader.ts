import { Cluster } from 'ioredis'
import { backoff, pause } from '../../base/backoff.js'
import type { RedisClient } from '../../redis/client/connect.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { MAX_REPLY_BYTES } from '../delivery/limits.js'
import type { Worker } from '../delivery/worker.js'
import { isMissingGroup, isRefusal, type ReconnectingClient } from '../redis/reconnecting-client.js'
import type { Capacity, Room } from './capacity.js'
import { readPages } from './read-pages.js'
import { LOOK_AGAIN_MS, ReadSizes } from './read-size.js'
import { RefusedStreams } from './refused-streams.js'
import type { UnreadWatch } from './unread-watch.js'

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
  link: ReconnectingClient
  groups(): readonly ConsumerGroup[]
  /** Of each stream. */
  capacity: Pick<Capacity, 'rooms' | 'isLacking' | 'busyFor' | 'releaseSurplus'>
  /** For the payloads of these. */
  roomBytes(): number
  /** Called when a group is missing; resolves once there is one again. */
  ensure(): Promise<void>
  onRead(): void
  unread: UnreadWatch
  signal: AbortSignal
}

/** Reads what is new for an unordered group, of each stream as long as there is room. */
export async function readGroups(parts: ReaderParts): Promise<void> {
  const { worker, link, signal, capacity } = parts
  let known: RedisClient | undefined
  let failures = 0
  // Reads in a row that found nothing.
  let empty = 0
  const sizes = new ReadSizes()
  // What arrives while a read waits is delivered at once; only what arrives between two reads of a stream can be trimmed unread.
  const skipped = new Set<ConsumerGroup>()
  const refused = new RefusedStreams()
  // A read of several streams was refused, and nothing says which of them is to blame: each is asked for itself.
  let isSuspicious = false
  for (let turn = 0; !signal.aborted; turn++) {
    const groups = rotated(parts.groups(), turn)
    for (const group of groups) if (refused.isPaused(group.key)) skipped.add(group)
    const all = groups.filter(({ key }) => !refused.isPaused(key))
    const rooms = capacity.rooms(all.map(({ stream }) => stream))
    const wanted = all.map((group, place) => ({ group, ...(rooms[place] as Room) }))
    const open = wanted.filter(({ count }) => count > 0)
    if (worker.blocked || open.length === 0) {
      for (const group of all) skipped.add(group)
      // What arrives meanwhile may be unlike what was read before.
      if (worker.blocked) sizes.clear()
      await worker.changedUntil(() => worker.blocked || capacity.isLacking || signal.aborted, refused.nextMs ?? BLOCK)
      continue
    }
    const client = await link.client()
    try {
      if (client !== known) {
        // A reply that was lost with the connection is pending with this consumer, and no one has seen it.
        for (const group of parts.groups())
          await unlessRefused(parts, client, refused, group, adoptOwn(client, group, worker))
        await parts.unread.look(client, parts.groups())
        known = client
        continue
      }
      const apart = client instanceof Cluster || isSuspicious
      isSuspicious = false
      const resumed = open.filter(({ group }) => skipped.delete(group)).map(({ group }) => group)
      if (resumed.length > 0) void parts.unread.look(client, resumed)
      // Also where a look may find nothing to read, or is not made.
      for (const each of wanted) if (each.count === 0 || each.wanted) skipped.add(each.group)
      const found = await readOnce(client, wanted, parts, { sizes, refused }, apart, empty)
      empty = found ? 0 : empty + 1
      if (client instanceof Cluster || !apart) failures = 0
      if (found) parts.onRead()
      else if (apart) await pause(POLL, signal)
    } catch (error) {
      if (isMissingGroup(error)) await parts.ensure()
      else {
        link.fault(client, error)
        isSuspicious = isRefusal(error)
        await pause(backoff(++failures, 50, 2_000), signal)
        for (const group of all) skipped.add(group)
      }
    }
  }
}

/**
 * A reply that was lost with the connection is pending with this consumer, and no handler has seen it. It comes without payloads, and what
 * is held is recognised. What is not taken now will be claimed like anybody's.
 */
async function adoptOwn(client: RedisClient, group: ConsumerGroup, worker: Worker): Promise<void> {
  let after = ''
  for (let most = MAX_OWN; most > 0; most -= OWN_PAGE) {
    const own = await group.own(client, after, OWN_PAGE)
    worker.adopt(group, own)
    after = own.at(-1)?.id ?? ''
    if (own.length < OWN_PAGE) return
  }
}

/** Undefined where Redis refuses it for this stream, which is then asked later. */
async function unlessRefused<Answer>(
  { link }: Pick<ReaderParts, 'link'>,
  client: RedisClient,
  refused: RefusedStreams,
  { key }: ConsumerGroup,
  answer: Promise<Answer>,
): Promise<Answer | undefined> {
  try {
    const answered = await answer
    refused.delete(key)
    return answered
  } catch (error) {
    if (!isRefusal(error)) throw error
    link.fault(client, error)
    refused.add(key)
    return undefined
  }
}

interface Wanted extends Room {
  group: ConsumerGroup
}

/** What is known of the streams from earlier reads. */
interface Known {
  sizes: ReadSizes
  refused: RefusedStreams
}

/** Whether anything was found. */
async function readOnce(
  client: RedisClient,
  wanted: readonly Wanted[],
  parts: ReaderParts,
  { sizes, refused }: Known,
  apart: boolean,
  empty: number,
): Promise<boolean> {
  const { worker, signal } = parts
  const hasRoom = wanted.filter(({ count }) => count > 0)
  const open = hasRoom.filter((each) => !each.wanted || sizes.of(each.group).mayLook)
  const plain = open.filter((each) => !each.wanted && !refused.has(each.group.key))
  const maxBytes = Math.min(parts.roomBytes(), MAX_REPLY_BYTES)
  const isScripted = apart || sizes.needBound(plain, sizes.pageOf(plain, maxBytes))
  const scripted = isScripted ? open : open.filter((each) => !plain.includes(each))
  let found = false
  const drained: Wanted[] = []
  if (scripted.length > 0) {
    const share = Math.max(0, Math.floor(maxBytes / scripted.length))
    const each = scripted.map(async ({ group, count, wanted }) => {
      const reading = group.readNew(client, Math.min(count, MAX_READ), share, wanted)
      const reply = await unlessRefused(parts, client, refused, group, reading)
      if (!reply) return false
      const { fresh, more } = reply
      const hasAny = fresh.length > 0
      sizes.of(group).note(fresh, more && !wanted)
      worker.receive(group, fresh)
      if (wanted && hasAny) parts.capacity.releaseSurplus(group.stream)
      else if (wanted && more) sizes.of(group).looked()
      else if (wanted) drained.push({ group, count: 1, batch: 1 })
      return hasAny
    })
    const outcomes = await Promise.allSettled(each)
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
    found = outcomes.some((outcome) => outcome.status === 'fulfilled' && outcome.value)
    if (apart || (isScripted && found)) return found
  }
  const hasMore = plain.some(({ group }) => sizes.of(group).hasMore)
  // Of a backlog of the others, one entry for each that is drained would be too few.
  const awaited = found || (hasMore && !isScripted) ? plain : [...plain, ...drained]
  const again = Math.min(awaited.length < hasRoom.length ? LOOK_AGAIN_MS : BLOCK, refused.nextMs ?? BLOCK)
  if (awaited.length === 0) {
    if (!found) await pause(again, signal)
    return found
  }
  const busy = wanted.filter(({ count }) => count === 0).map(({ group }) => parts.capacity.busyFor(group.stream))
  // Longer each time while the full ones stay full.
  const grown = Math.max(MIN_BLOCK, Math.min(...busy)) * 2 ** Math.min(empty, 10)
  const block = Math.ceil(Math.min(again, grown))
  const any = await readPages(client, awaited, found ? undefined : block, {
    ...{ sizes, maxBytes, receive: (group, entries) => worker.receive(group, entries) },
    mayRead: () => !signal.aborted && !worker.blocked,
  })
  return found || any
}

/** Another one first each time, so that a busy stream does not take all the room. */
const rotated = <T>(list: readonly T[], turn: number): T[] => {
  const from = list.length === 0 ? 0 : turn % list.length
  return [...list.slice(from), ...list.slice(0, from)]
}
