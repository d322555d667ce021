import { deadKey, fenceKey, retriesKey, waitingDueKey, waitingKey, waitingRetriesKey } from '../event/names.js'
import type { RedisClient } from './connect.js'
import { Script, send } from './script.js'

const script = (file: string) => new Script(file, 'pending.lua')
const scripts = {
  claim: script('claim.lua'),
  take: new Script('take.lua', 'pending.lua', 'read-new.lua'),
  read: new Script('read.lua', 'pending.lua', 'read-new.lua'),
  beat: script('beat.lua'),
  begin: script('begin.lua'),
  fail: script('fail.lua'),
  bury: new Script('bury.lua', 'pending.lua', 'move.lua'),
  wait: new Script('wait.lua', 'pending.lua', 'move.lua'),
  due: script('due.lua'),
  finish: new Script('finish.lua', 'pending.lua', 'move.lua'),
  load: script('load.lua'),
  release: script('release.lua'),
  leave: script('leave.lua'),
  create: new Script('create.lua', 'pending.lua', 'stream-info.lua'),
  unread: new Script('unread.lua', 'pending.lua', 'stream-info.lua'),
}

/** Names and values that a script is given; it takes no more. What Outrider publishes has fewer than a hundred. */
const MOST_VALUES = 7_000

/** Deliveries from here on say that somebody gave the entry up with XNACK FATAL: pending.lua reports 2^31-1. */
export const NACKED = 2 ** 30

/** An entry of a stream, as Redis delivers it: names and values in turn. */
export interface Entry {
  readonly id: string
  readonly fields: readonly string[]
  /** In bytes, where the payload was left out, which `load` reads; undefined where the fields are complete. */
  readonly size?: number | undefined
}

/** An entry that was pending with another consumer, or with this one in an earlier life. */
export interface Taken {
  id: string
  /** Without the payload. Undefined when it was trimmed while it was pending: it is acknowledged, and lost to the group. */
  fields: string[] | undefined
  /** Of all its fields, in bytes. */
  size: number
  /** How often it was delivered since its last outcome. */
  deliveries: number
  /** What `fail` remembered of it; empty when it never failed. */
  attempts: string
}

/**
 * What became of an entry that `load` was asked for: its fields; or it was trimmed while it was pending with this consumer, is
 * acknowledged, and lost to the group; or it is gone, and another consumer has dealt with it.
 */
export type Loaded = { id: string; fields: string[] } | { id: string; missing: 'trimmed' | 'gone' }

/** Whether it is moved; `trimmed`: there was nothing to move, and the entry is pending as before. */
export type Moved = boolean | 'trimmed'

/** How a group stands in a stream. */
export interface GroupState {
  /** The stream's key. */
  stream: string
  /** Entries that were delivered and are not acknowledged. */
  pending: number
  /** Age of the oldest of them, in seconds; 0 without one. */
  oldestPendingSeconds: number
  /** Entries that were not delivered yet; undefined where Redis cannot tell. */
  lag: number | undefined
}

/** One consumer of a group in one stream. */
export interface ConsumerState {
  name: string
  pending: number
  /** Milliseconds since it last did anything. */
  idle: number
}

/** What was taken from a waiting stream, and how the rest of it stands. */
export interface Due {
  taken: Taken[]
  /** Entries of it, before these were taken. */
  waiting: number
  /** When the event of its first entry failed for the first time, in milliseconds since 1970; 0 without one. */
  since: number
}

/** Entries that a group has lost unread, with the counters of Redis that show it. */
export interface UnreadTrimmed {
  lost: number
  /** The group's position; every entry that is left is after it. */
  lastDelivered: string
  entriesRead: number
  /** Ever, to the stream. */
  entriesAdded: number
  /** Of the stream, now. */
  length: number
}

/**
 * `last`: the id of the stream's last entry; undefined where not all that was pending is taken. `more`: the stream may have more new
 * entries.
 */
export type TakeReply =
  | { fenced: number }
  | { complete: boolean; taken: Taken[]; fresh: Entry[]; last: string | undefined; more: boolean }

/**
 * What one consumer of a group does on one stream. Everything that could take something away from another consumer is a
 * script, which looks first who has the entry. Rejects with Redis' error, NOGROUP where stream or group is missing.
 */
export class Group {
  readonly key: string
  readonly group: string
  readonly consumer: string
  /** The key of the stream that its events are of; another one than `key` for what waits. */
  readonly stream: string
  readonly #keys: string[]
  #waiting: Group | undefined

  constructor(key: string, group: string, consumer: string, stream = key) {
    this.key = key
    this.group = group
    this.consumer = consumer
    this.stream = stream
    this.#keys = [key, key === stream ? retriesKey(key, group) : waitingRetriesKey(stream, group)]
  }

  /** The same group in its waiting stream, where what is taken is pending as in the stream itself. */
  get waiting(): Group {
    this.#waiting ??= new Group(waitingKey(this.stream, this.group), this.group, this.consumer, this.stream)
    return this.#waiting
  }

  /** Makes the group, and the stream; false when it is there. `from`: the entry behind which it begins. */
  async create(client: RedisClient, from: string): Promise<boolean> {
    try {
      await this.#call(client, scripts.create, from)
      return true
    } catch (error) {
      if ((error as Error).message.includes('BUSYGROUP')) return false
      throw error
    }
  }

  async exists(client: RedisClient): Promise<boolean> {
    return (await this.#info(client)) !== undefined
  }

  /** How the group stands; zeros where it is missing. */
  async state(client: RedisClient): Promise<GroupState> {
    const info = await this.#info(client)
    const at = (name: string): unknown => info?.[info.indexOf(name) + 1]
    const pending = Number(at('pending') ?? 0)
    const [oldest] = pending > 0 ? ((await client.xpending(this.key, this.group, '-', '+', 1)) as [string][]) : []
    const age = oldest ? Math.max(0, Date.now() - Number.parseInt(oldest[0], 10)) / 1000 : 0
    // Null after a deletion in the middle; not told before Redis 7.
    const lag = info?.includes('lag') ? at('lag') : undefined
    return { stream: this.key, pending, oldestPendingSeconds: age, lag: typeof lag === 'number' ? lag : undefined }
  }

  async consumers(client: RedisClient): Promise<ConsumerState[]> {
    const consumers = (await client.xinfo('CONSUMERS', this.key, this.group)) as unknown[][]
    return consumers.map((info) => {
      const at = (name: string): unknown => info[info.indexOf(name) + 1]
      return { name: String(at('name')), pending: Number(at('pending')), idle: Number(at('idle')) }
    })
  }

  /** Entries that were removed before they were delivered to the group, and that no worker has reported. */
  async unreadTrimmed(client: RedisClient): Promise<UnreadTrimmed | undefined> {
    const reply = (await this.#call(client, scripts.unread)) as [number, string, number, number, number]
    const [lost, lastDelivered, entriesRead, entriesAdded, length] = reply
    return lost > 0 ? { lost, lastDelivered, entriesRead, entriesAdded, length } : undefined
  }

  /** What XINFO GROUPS says of it; undefined where group or stream is missing. */
  async #info(client: RedisClient): Promise<unknown[] | undefined> {
    const groups = await client.xinfo('GROUPS', this.key).catch((error: Error) => {
      if (error.message.includes('no such key')) return []
      throw error
    })
    return (groups as unknown[][]).find((info) => info[info.indexOf('name') + 1] === this.group)
  }

  /** Entries that have been idle for so long, in milliseconds, with anybody. */
  async claim(client: RedisClient, idle: number, most: number): Promise<Taken[]> {
    return takenOf(await this.#call(client, scripts.claim, String(idle), String(most), '-'))
  }

  /** What is pending with this consumer after that entry. */
  async own(client: RedisClient, after: string, most: number): Promise<Taken[]> {
    const from = after === '' ? '-' : `(${after}`
    return takenOf(await this.#call(client, scripts.claim, '0', String(most), from, this.consumer))
  }

  /** Entries with their payload: as many as these bytes hold, but one at least, in this order. */
  async load(client: RedisClient, ids: readonly string[], maxBytes: number): Promise<Loaded[]> {
    const reply = (await this.#call(client, scripts.load, String(maxBytes), ...ids)) as [string, string[] | number][]
    return reply.map(([id, found]) =>
      typeof found === 'number' ? { id, missing: found === 1 ? 'trimmed' : 'gone' } : { id, fields: found },
    )
  }

  /**
   * The next entries of an ordered group. A new holder gives '-' as `from`, then `(id` of the last that it got, until it is
   * told that it has all; then nothing. New entries beyond `maxBytes` come without their payload.
   */
  async take(
    client: RedisClient,
    epoch: string,
    most: number,
    from: string,
    maxBytes: number = Number.MAX_SAFE_INTEGER,
  ): Promise<TakeReply> {
    const keys = [...this.#keys, fenceKey(this.key, this.group)]
    const args = [this.group, this.consumer, epoch, String(most), from, String(maxBytes)]
    const reply = (await scripts.take.call(client, keys, args)) as [unknown, unknown, EntryReply[], string?, number?]
    const [status, taken, fresh, last, more] = reply
    if (status === 'FENCED') return { fenced: Number(taken) }
    return { complete: status === 1, taken: takenOf(taken), fresh: fresh.map(entryOf), last, more: more === 1 }
  }

  /** New entries, for an unordered group. `more`: there may be more of them. Those beyond `maxBytes` come without their payload. */
  async read(client: RedisClient, most: number, maxBytes: number): Promise<{ fresh: Entry[]; more: boolean }> {
    const reply = await this.#call(client, scripts.read, String(most), String(maxBytes))
    const [fresh, more] = reply as [EntryReply[], number]
    return { fresh: fresh.map(entryOf), more: more === 1 }
  }

  /** Keeps entries from being claimed; the ids of those that another consumer has. */
  async beat(client: RedisClient, ids: readonly string[]): Promise<string[]> {
    return (await this.#call(client, scripts.beat, ...ids)) as string[]
  }

  /**
   * Whether the entry is still in the stream and pending with no consumer: it was acknowledged or dead-lettered. One after the
   * group's position is neither: Redis has lost its delivery, in a failover or with the group, and will deliver it again.
   */
  async isSettled(client: RedisClient, id: string): Promise<boolean> {
    // The position first: what is delivered in between is pending.
    const info = await this.#info(client)
    const position = info?.[info.indexOf('last-delivered-id') + 1]
    if (typeof position !== 'string') return false
    const pending = (await client.xpending(this.key, this.group, id, id, 1)) as unknown[]
    if (pending.length > 0) return false
    // Nothing where the position is before it.
    const [entry] = await client.xrange(this.key, id, position, 'COUNT', 1)
    return entry?.[0] === id
  }

  async begin(client: RedisClient, id: string): Promise<boolean> {
    return (await this.#call(client, scripts.begin, id)) === 1
  }

  async fail(client: RedisClient, id: string, attempts: string): Promise<boolean> {
    return (await this.#call(client, scripts.fail, id, attempts)) === 1
  }

  /** Moves an entry to the dead letters with what is to be said of it, and acknowledges it. */
  async bury(client: RedisClient, entry: MovedEntry, said: readonly string[]): Promise<Moved> {
    return this.#move(client, scripts.bury, [deadKey(this.stream, this.group)], [], entry, said)
  }

  /** Moves an entry to the waiting stream until that time, in milliseconds since 1970, and acknowledges it. */
  async wait(client: RedisClient, entry: MovedEntry, due: number, said: readonly string[]): Promise<Moved> {
    const keys = [waitingKey(this.stream, this.group), waitingDueKey(this.stream, this.group)]
    return this.#move(client, scripts.wait, keys, [String(due)], entry, said)
  }

  /** The fields as they were read are sent only where Redis has the entry no more. */
  async #move(
    client: RedisClient,
    which: Script,
    keys: string[],
    own: string[],
    { id, fields }: MovedEntry,
    said: readonly string[],
  ): Promise<Moved> {
    const args = [this.group, this.consumer, id, ...own, String(said.length), ...said]
    const all = [...this.#keys, ...keys]
    let reply = await which.call(client, all, args)
    if (reply === 2 && fields) reply = await which.call(client, all, [...args, ...fields.slice(0, MOST_VALUES)])
    return reply === 2 ? 'trimmed' : reply === 1
  }

  /** Takes from this waiting stream what is due by then; undefined where nothing has ever waited. */
  async due(client: RedisClient, now: number, most: number): Promise<Due | undefined> {
    const keys = [...this.#keys, waitingDueKey(this.stream, this.group)]
    const reply = await scripts.due.call(client, keys, [this.group, this.consumer, String(now), String(most)])
    const [taken, waiting, since] = reply as [unknown, number, string] | []
    return waiting === undefined ? undefined : { taken: takenOf(taken), waiting, since: Number(since) }
  }

  async release(client: RedisClient, entries: readonly { id: string; uncounted: boolean }[]): Promise<void> {
    if (entries.length === 0) return
    await this.#call(client, scripts.release, ...entries.flatMap(({ id, uncounted }) => [id, uncounted ? '1' : '0']))
  }

  /** Removes names with which nothing is pending: those that have been idle for so long, in milliseconds, and `own` on leaving. */
  async leave(client: RedisClient, idle: number, own = false): Promise<number> {
    return (await this.#call(client, scripts.leave, String(idle), own ? '1' : '0')) as number
  }

  /** After the commit of their effects. `failed`: those among them that `fail` remembers something of. */
  async acknowledge(client: RedisClient, ids: readonly string[], failed: readonly string[]): Promise<void> {
    if (this.key !== this.stream) {
      await this.#call(client, scripts.finish, ...ids)
      return
    }
    // In this order: what is forgotten of an entry that is still pending is not needed, what is left of one that is not, stays.
    if (failed.length > 0) await client.hdel(this.#keys[1] as string, ...failed)
    await send(client, 'xack', [this.key, this.group, ...ids])
  }

  #call(client: RedisClient, which: Script, ...args: string[]): Promise<unknown> {
    return which.call(client, this.#keys, [this.group, this.consumer, ...args])
  }
}

/** An entry to be moved; `fields`: as they were read, should it have been trimmed; undefined where they are not held. */
type MovedEntry = Pick<Entry, 'id'> & { fields: readonly string[] | undefined }

type EntryReply = [id: string, fields: string[] | null, size?: number]

/** A reply of XREADGROUP. Entries without fields were deleted; they are only found by reading what is pending. */
export const entryOf = ([id, fields, size]: EntryReply): Entry =>
  size === undefined ? { id, fields: fields ?? [] } : { id, fields: fields ?? [], size }

const takenOf = (reply: unknown): Taken[] =>
  (reply as [string, number, string?, string[]?, number?][]).map(([id, deliveries, attempts, fields, size]) => ({
    id,
    deliveries,
    attempts: attempts ?? '',
    fields,
    size: size ?? 0,
  }))
