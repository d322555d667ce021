import {
  deadKey,
  fenceKey,
  retriesKey,
  waitingDueKey,
  waitingKey,
  waitingRetriesKey,
  waitingSinceKey,
} from '../../event/names.js'
import type { RedisClient } from '../client/connect.js'
import { Script, send } from '../scripts/script.js'
import {
  type Claimed,
  type ClaimedEntry,
  type ConsumerState,
  type DueEntries,
  type EntryReply,
  type GroupState,
  type LoadedPayload,
  type Moved,
  type OrderedReply,
  type StreamEntry,
  streamEntryOf,
  takenOf,
  type UnreadTrimmed,
  type Wanted,
} from './group-replies.js'

const script = (file: string) => new Script(file, 'includes/pending.lua')
const scripts = {
  claim: new Script('claim.lua', 'includes/pending.lua', 'includes/wanted.lua'),
  readOrdered: new Script('read-ordered.lua', 'includes/pending.lua', 'includes/read-new.lua'),
  readNew: new Script('read-unordered.lua', 'includes/pending.lua', 'includes/read-new.lua', 'includes/wanted.lua'),
  heartbeat: script('heartbeat.lua'),
  startDelivery: script('start-delivery.lua'),
  recordFailure: script('record-failure.lua'),
  deadLetter: new Script('dead-letter.lua', 'includes/pending.lua', 'includes/move.lua'),
  setAside: new Script('set-aside.lua', 'includes/pending.lua', 'includes/move.lua'),
  takeDue: script('take-due.lua'),
  finishWaiting: new Script('finish-waiting.lua', 'includes/pending.lua', 'includes/move.lua'),
  loadPayloads: script('load-payloads.lua'),
  release: script('release.lua'),
  removeIdleConsumers: script('remove-idle-consumers.lua'),
  createGroup: new Script('create-group.lua', 'includes/pending.lua', 'includes/stream-info.lua'),
  findUnread: new Script('find-unread.lua', 'includes/pending.lua', 'includes/stream-info.lua'),
}

/** Names and values that a script is given; it takes no more. What Outrider publishes has fewer than a hundred. */
const MOST_VALUES = 7_000

/** More than any consumer waits for. */
const MAX_IDLE_MS = 3_600_000

/**
 * What one consumer of a group does on one stream. Everything that could take something away from another consumer is a
 * script, which looks first who has the entry. Rejects with Redis' error, NOGROUP where stream or group is missing.
 */
export class ConsumerGroup {
  readonly key: string
  readonly group: string
  readonly consumer: string
  /** The key of the stream that its events are of; another one than `key` for what waits. */
  readonly stream: string
  readonly #keys: string[]
  /** The index of first failures of a waiting stream. */
  readonly #sinceKey: string[]
  #waiting: ConsumerGroup | undefined

  constructor(key: string, group: string, consumer: string, stream = key) {
    this.key = key
    this.group = group
    this.consumer = consumer
    this.stream = stream
    this.#sinceKey = key === stream ? [] : [waitingSinceKey(stream, group)]
    this.#keys = [key, key === stream ? retriesKey(key, group) : waitingRetriesKey(stream, group)]
  }

  /** The same group in its waiting stream, where what is taken is pending as in the stream itself. */
  get waiting(): ConsumerGroup {
    this.#waiting ??= new ConsumerGroup(waitingKey(this.stream, this.group), this.group, this.consumer, this.stream)
    return this.#waiting
  }

  /** Makes the group, and the stream; false when it is there. `from`: the entry behind which it begins. */
  async create(client: RedisClient, from: string): Promise<boolean> {
    try {
      await this.#call(client, scripts.createGroup, from)
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
    const reply = (await this.#call(client, scripts.findUnread)) as [number, string, number, number, number]
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

  /** Entries from `from` on that have been idle for so long, in milliseconds, with anybody; those that are wanted, or all. */
  async claim(client: RedisClient, idle: number, most: number, from = '-', wanted?: Wanted): Promise<Claimed> {
    return this.#claim(client, String(idle), String(most), from, '', ...(wanted ? [JSON.stringify(wanted)] : []))
  }

  /** What is pending with this consumer after that entry. */
  async own(client: RedisClient, after: string, most: number): Promise<ClaimedEntry[]> {
    const from = after === '' ? '-' : `(${after}`
    return (await this.#claim(client, '0', String(most), from, this.consumer)).taken
  }

  async #claim(client: RedisClient, ...args: string[]): Promise<Claimed> {
    const reply = (await this.#call(client, scripts.claim, ...args)) as [unknown, string, string, number[]]
    const [taken, next, skipped, places] = reply
    return {
      taken: takenOf(taken),
      next: next === '' ? undefined : next,
      skipped: skipped === '' ? undefined : { from: skipped, places },
    }
  }

  /** Entries with their payload: as many as these bytes hold, but one at least, in this order. */
  async loadPayloads(client: RedisClient, ids: readonly string[], maxBytes: number): Promise<LoadedPayload[]> {
    const reply = (await this.#call(client, scripts.loadPayloads, String(maxBytes), ...ids)) as [
      string,
      string[] | number,
    ][]
    return reply.map(([id, found]) =>
      typeof found === 'number' ? { id, missing: found === 1 ? 'trimmed' : 'gone' } : { id, fields: found },
    )
  }

  /**
   * The next entries of an ordered group. A new holder gives '-' as `from`, then `(id` of the last that it got, until it is
   * told that it has all; then nothing. New entries beyond `maxBytes` come without their payload.
   */
  async readOrdered(
    client: RedisClient,
    epoch: string,
    most: number,
    from: string,
    maxBytes: number = Number.MAX_SAFE_INTEGER,
  ): Promise<OrderedReply> {
    const keys = [...this.#keys, fenceKey(this.key, this.group)]
    const args = [this.group, this.consumer, epoch, String(most), from, String(maxBytes)]
    const reply = (await scripts.readOrdered.call(client, keys, args)) as [
      unknown,
      unknown,
      EntryReply[],
      string?,
      number?,
    ]
    const [status, taken, fresh, last, more] = reply
    if (status === 'FENCED') return { fenced: Number(taken) }
    return { complete: status === 1, taken: takenOf(taken), fresh: fresh.map(streamEntryOf), last, more: more === 1 }
  }

  /**
   * New entries, for an unordered group; up to the last one that is wanted, where not all are. `more`: there may be more of them.
   * Those beyond `maxBytes` come without their payload.
   */
  async readNew(
    client: RedisClient,
    most: number,
    maxBytes: number,
    wanted?: Wanted,
  ): Promise<{ fresh: StreamEntry[]; more: boolean }> {
    const args = [String(most), String(maxBytes), ...(wanted ? [JSON.stringify(wanted)] : [])]
    const [fresh, more] = (await this.#call(client, scripts.readNew, ...args)) as [EntryReply[], number]
    return { fresh: fresh.map(streamEntryOf), more: more === 1 }
  }

  /**
   * Keeps entries from being claimed. `lost`: those that another consumer has; `deleted`: those that were deleted from the middle of
   * the stream, and are not pending any more.
   */
  async heartbeat(client: RedisClient, ids: readonly string[]): Promise<{ lost: string[]; deleted: string[] }> {
    const [lost, deleted] = (await this.#call(client, scripts.heartbeat, ...ids)) as [string[], string[]]
    return { lost, deleted }
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

  async startDelivery(client: RedisClient, id: string): Promise<boolean> {
    return (await this.#call(client, scripts.startDelivery, id)) === 1
  }

  async recordFailure(client: RedisClient, id: string, attempts: string): Promise<boolean> {
    return (await this.#call(client, scripts.recordFailure, id, attempts)) === 1
  }

  /** Moves an entry to the dead letters with what is to be said of it, and acknowledges it. */
  async deadLetter(client: RedisClient, { id, fields }: MovedEntry, said: readonly string[]): Promise<Moved> {
    const keys = [...this.#keys, deadKey(this.stream, this.group), ...this.#sinceKey]
    const args = [this.group, this.consumer, id, String(said.length), ...said]
    let reply = (await scripts.deadLetter.call(client, keys, args)) as number
    if (reply === 2 && fields) {
      const all = [...args, ...fields.slice(0, MOST_VALUES)]
      reply = (await scripts.deadLetter.call(client, keys, all)) as number
    }
    return movedOf(reply)
  }

  /** Moves entries to the waiting stream until they are due, and acknowledges them; what became of each. */
  async setAside(client: RedisClient, entries: readonly AsideEntry[]): Promise<Moved[]> {
    const keys = [waitingKey, waitingDueKey, waitingSinceKey].map((key) => key(this.stream, this.group))
    const call = async (some: readonly AsideEntry[], given: (entry: AsideEntry) => readonly string[]) => {
      const args = some.flatMap((entry) => {
        const { id, due, said } = entry
        const fields = given(entry)
        return [id, String(due), String(said.length), ...said, String(fields.length), ...fields]
      })
      const all = [...this.#keys, ...keys]
      return (await scripts.setAside.call(client, all, [this.group, this.consumer, ...args])) as number[]
    }
    const replies = await call(entries, () => [])
    for (const [place, entry] of entries.entries()) {
      if (replies[place] !== 2 || !entry.fields) continue
      const [reply] = await call([entry], ({ fields = [] }) => fields.slice(0, MOST_VALUES))
      replies[place] = reply as number
    }
    return replies.map(movedOf)
  }

  /** Takes from this waiting stream what is due by then; undefined where nothing has ever waited. */
  async takeDue(client: RedisClient, now: number, most: number, searchFrom = '-'): Promise<DueEntries | undefined> {
    const keys = [...this.#keys, waitingDueKey(this.stream, this.group), ...this.#sinceKey]
    const args = [this.group, this.consumer, String(now), String(most), searchFrom]
    const reply = (await scripts.takeDue.call(client, keys, args)) as [unknown, number, string, string, number] | []
    if (reply.length === 0) return undefined
    const [taken, waiting, since, next, more] = reply
    return { taken: takenOf(taken), waiting, since: Number(since), searchFrom: next, more: more === 1 }
  }

  /**
   * `idle`: for how long, in milliseconds, they count as idle from here on; any consumer may claim them where it is not given. Returns those
   * that were deleted from the middle of the stream, and are not pending any more.
   */
  async release(
    client: RedisClient,
    entries: readonly { id: string; uncounted: boolean }[],
    idle: number = MAX_IDLE_MS,
  ): Promise<string[]> {
    if (entries.length === 0) return []
    const pairs = entries.flatMap(({ id, uncounted }) => [id, uncounted ? '1' : '0'])
    return (await this.#call(client, scripts.release, String(idle), ...pairs)) as string[]
  }

  /** Removes names with which nothing is pending: those that have been idle for so long, in milliseconds, and `own` on leaving. */
  async removeIdleConsumers(client: RedisClient, idle: number, own = false): Promise<number> {
    return (await this.#call(client, scripts.removeIdleConsumers, String(idle), own ? '1' : '0')) as number
  }

  /** After the commit of their effects. `failed`: those among them that `fail` remembers something of. */
  async acknowledge(client: RedisClient, ids: readonly string[], failed: readonly string[]): Promise<void> {
    if (this.key !== this.stream) {
      await scripts.finishWaiting.call(client, [...this.#keys, ...this.#sinceKey], [this.group, this.consumer, ...ids])
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

/**
 * An entry to be moved. `fields`: as they were read; undefined where they are not held. They are sent only where Redis has the entry no
 * more.
 */
type MovedEntry = Pick<StreamEntry, 'id'> & { fields: readonly string[] | undefined }

/** An entry that is to wait. `due`: until then, in milliseconds since 1970; `said`: names and values that describe the wait. */
export type AsideEntry = MovedEntry & { due: number; said: readonly string[] }

const movedOf = (reply: number): Moved => (reply === 2 ? 'trimmed' : reply === 1)
