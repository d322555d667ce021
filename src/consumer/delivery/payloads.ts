import type { Group, Loaded } from '../../redis/group.js'
import { complete, type Item, sizeOf } from '../item.js'
import { MAX_HELD_BYTES, MAX_REPLY_BYTES } from '../limits.js'
import { isMissingGroup, type Link, StoppedError } from '../link.js'

const MAX_IDS = 500

/** More than is needed is evicted, so that the next ones need no new sort. */
const EVICTION_BYTES = MAX_HELD_BYTES / 16

/**
 * An item whose payload could not be loaded: it was trimmed while it was pending here, or is not pending here any more; or Redis has
 * refused or not answered.
 */
export interface Missing {
  item: Item
  missing: 'trimmed' | 'gone' | 'refused'
}

/**
 * The payloads that a worker holds, as text: once each, within one budget of bytes. An item has its payload from when it is read as
 * long as there is room; else it is loaded before its call.
 *
 *   kept     its bytes count; it is queued or runs
 *   spare    its bytes count; it waits for its next attempt or its handler's breaker, and gives its payload up when others need the room
 *   without  what was claimed, what found no room, and what gave up its payload
 */
export class Payloads {
  readonly #link: Link
  readonly #onTrimmed: (group: Group, id: string) => void
  /** Of the items that have their payload. */
  readonly #kept = new Map<Item, number>()
  /** Those that wait for their next attempt, or for the breaker of their handler. */
  readonly #spare = new Set<Item>()
  #bytes = 0
  #spareBytes = 0

  constructor(link: Link, onTrimmed: (group: Group, id: string) => void) {
    this.#link = link
    this.#onTrimmed = onTrimmed
  }

  /** Bytes that more payloads may have. */
  get room(): number {
    return MAX_HELD_BYTES - this.#bytes + this.#spareBytes
  }

  /** It keeps the payload that it came with, where there is room. */
  add(item: Item): void {
    if (!item.fields) return
    if (item.size > this.room) item.fields = undefined
    else this.#keep(item)
  }

  /** It waits. */
  spare(item: Item): void {
    const size = this.#kept.get(item)
    if (size === undefined || this.#spare.has(item)) return
    this.#spare.add(item)
    this.#spareBytes += size
  }

  /** Its wait is over. */
  claim(item: Item): void {
    if (this.#spare.delete(item)) this.#spareBytes -= this.#kept.get(item) ?? 0
  }

  drop(item: Item): void {
    this.claim(item)
    this.#bytes -= this.#kept.get(item) ?? 0
    this.#kept.delete(item)
    item.fields = undefined
  }

  /** Loads the payloads that these lack, asking once; those that have none after it. Rejects with a StoppedError. */
  async load(items: readonly Item[]): Promise<Missing[]> {
    const lacking = items.filter(({ fields, state }) => !fields && state !== 'gone')
    const lost: Missing[] = []
    for (const group of new Set(lacking.map(({ group }) => group))) {
      let left = lacking.filter((item) => item.group === group)
      while (left.length > 0) {
        const loaded = await this.#ask(group, left.slice(0, MAX_IDS))
        if (!loaded) {
          lost.push(...left.map((item) => ({ item, missing: 'refused' as const })))
          break
        }
        for (const [n, found] of loaded.entries()) lost.push(...this.#take(left[n] as Item, found))
        left = left.slice(loaded.length)
      }
    }
    return lost
  }

  /** Undefined: refused. Where the group is gone, so is what was pending with it: it is delivered again. */
  async #ask(group: Group, items: readonly Item[]): Promise<Loaded[] | undefined> {
    const ids = items.map(({ id }) => id)
    try {
      return await this.#link.once((client) => group.load(client, ids, MAX_REPLY_BYTES))
    } catch (error) {
      if (isMissingGroup(error)) return ids.map((id) => ({ id, missing: 'gone' }))
      if (error instanceof StoppedError) throw error
      return undefined
    }
  }

  #take(item: Item, loaded: Loaded): Missing[] {
    if ('missing' in loaded) {
      if (loaded.missing === 'trimmed') this.#onTrimmed(item.group, item.origin)
      return [{ item, missing: loaded.missing }]
    }
    if (item.state === 'gone') return []
    complete(item, loaded.fields)
    this.#keep(item)
    return []
  }

  #keep(item: Item): void {
    // What Redis counts as bytes may take more in memory. The schedule goes by `item.size` from the beginning of a call to its end.
    const size = Math.max(item.size, sizeOf(item.fields as readonly string[]))
    if (this.#bytes + size > MAX_HELD_BYTES) this.#evict(MAX_HELD_BYTES - size - EVICTION_BYTES)
    this.#kept.set(item, size)
    this.#bytes += size
  }

  /** First those that a breaker holds up give up their payloads, then those that wait longest. */
  #evict(bytes: number): void {
    const until = ({ state, due }: Item) => (state === 'waiting' ? due : Number.MAX_VALUE)
    for (const other of [...this.#spare].sort((a, b) => until(b) - until(a))) {
      if (this.#bytes <= bytes) return
      this.drop(other)
    }
  }
}
