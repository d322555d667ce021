import type { Group, Loaded } from '../../redis/group.js'
import { complete, type Item } from '../item.js'
import { MAX_HELD_BYTES, MAX_REPLY_BYTES } from '../limits.js'
import { isMissingGroup, type Link } from '../link.js'

const MAX_IDS = 500

/** An item whose payload Redis does not have: it was trimmed while it was pending here, or is not pending here any more. */
export interface Missing {
  item: Item
  missing: 'trimmed' | 'gone'
}

/**
 * The payloads that a worker holds, as text: once each, within one budget of bytes. An item has its payload from when it is read as
 * long as there is room; else it is loaded before its call.
 *
 *   kept     its bytes count; it is queued or runs
 *   spare    its bytes count; it waits for its next attempt, and gives its payload up when others need the room
 *   without  what was claimed, what found no room, and what gave up its payload
 */
export class Payloads {
  readonly #link: Link
  readonly #onTrimmed: (group: Group, id: string) => void
  /** Of the items that have their payload. */
  readonly #kept = new Map<Item, number>()
  /** In the order in which they began to wait. */
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

  /** Loads the payloads that these lack; those that Redis has none of. Rejects with a StoppedError. */
  async load(items: readonly Item[]): Promise<Missing[]> {
    const lacking = items.filter(({ fields, state }) => !fields && state !== 'gone')
    const lost: Missing[] = []
    for (const group of new Set(lacking.map(({ group }) => group))) {
      let left = lacking.filter((item) => item.group === group)
      while (left.length > 0) {
        const loaded = await this.#ask(group, left.slice(0, MAX_IDS))
        for (const [n, found] of loaded.entries()) lost.push(...this.#take(left[n] as Item, found))
        left = left.slice(loaded.length)
      }
    }
    return lost
  }

  /** Where the group is gone, so is what was pending with it: it is delivered again. */
  async #ask(group: Group, items: readonly Item[]): Promise<Loaded[]> {
    const ids = items.map(({ id }) => id)
    try {
      return await this.#link.ask((client) => group.load(client, ids, MAX_REPLY_BYTES))
    } catch (error) {
      if (isMissingGroup(error)) return ids.map((id) => ({ id, missing: 'gone' }))
      throw error
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
    for (const other of this.#spare) {
      if (this.#bytes + item.size <= MAX_HELD_BYTES) break
      this.drop(other)
    }
    this.#kept.set(item, item.size)
    this.#bytes += item.size
  }
}
