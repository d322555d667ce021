import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { LoadedPayload } from '../../redis/streams/group-replies.js'
import { isMissingGroup, type ReconnectingClient, StoppedError } from '../redis/reconnecting-client.js'
import { byteSizeOf, complete, type Delivery, giveUpPayload, isHeld } from './delivery.js'
import { MAX_HELD_BYTES, MAX_REPLY_BYTES } from './limits.js'

const MAX_IDS = 500

/** More than is needed is evicted, so that the next ones need no new sort. */
const EVICTION_BYTES = MAX_HELD_BYTES / 16

/**
 * A delivery whose payload could not be loaded: it was trimmed while it was pending here, or is not pending here any more; or Redis has
 * refused or not answered.
 */
export interface Missing {
  delivery: Delivery
  missing: 'trimmed' | 'gone' | 'refused'
}

/**
 * The payloads that a worker holds, as text: once each, within one budget of bytes, from which the deliveries themselves take theirs. A
 * delivery has its payload from when it is read as long as there is room; else it is loaded before its call.
 *
 *   kept     its bytes count; it runs, or is queued, and gives its payload up when those that run need the room
 *   spare    its bytes count; it waits for its next attempt or its handler's breaker, and gives its payload up when others need the room
 *   without  what was claimed, what found no room, and what gave up its payload
 */
export class Payloads {
  readonly #link: ReconnectingClient
  readonly #onTrimmed: (group: ConsumerGroup, id: string) => void
  /** Of the deliveries that have their payload. */
  readonly #kept = new Map<Delivery, number>()
  /** Those that wait for their next attempt, or for the breaker of their handler. */
  readonly #spare = new Set<Delivery>()
  #bytes = 0
  #spareBytes = 0
  /** Of all deliveries, without their payloads. */
  #baseBytes = 0

  constructor(link: ReconnectingClient, onTrimmed: (group: ConsumerGroup, id: string) => void) {
    this.#link = link
    this.#onTrimmed = onTrimmed
  }

  /** Bytes that more payloads may have. */
  get room(): number {
    return MAX_HELD_BYTES - this.#baseBytes - this.#bytes + this.#spareBytes
  }

  /** It is held from now on. It keeps the payload that it came with, where there is room. */
  add(delivery: Delivery): void {
    this.#baseBytes += delivery.baseSize
    if (!delivery.fields) return
    if (delivery.size > this.room) giveUpPayload(delivery)
    else this.#keep(delivery, delivery.size)
  }

  /** It waits. */
  spare(delivery: Delivery): void {
    const size = this.#kept.get(delivery)
    if (size === undefined || this.#spare.has(delivery)) return
    this.#spare.add(delivery)
    this.#spareBytes += size
  }

  /** Its wait is over. */
  claim(delivery: Delivery): void {
    if (this.#spare.delete(delivery)) this.#spareBytes -= this.#kept.get(delivery) ?? 0
  }

  /** It is not held any more from here on. */
  drop(delivery: Delivery): void {
    if (isHeld(delivery)) this.#baseBytes -= delivery.baseSize
    this.#remove(delivery)
    delivery.fields = undefined
  }

  /** Loads the payloads that these lack, asking once; those that have none after it. Rejects with a StoppedError. */
  async load(deliveries: readonly Delivery[]): Promise<Missing[]> {
    const lacking = deliveries.filter(({ fields, state }) => !fields && state !== 'gone')
    const lost: Missing[] = []
    for (const group of new Set(lacking.map(({ group }) => group))) {
      let left = lacking.filter((delivery) => delivery.group === group)
      while (left.length > 0) {
        const loaded = await this.#ask(group, left.slice(0, MAX_IDS))
        if (!loaded) {
          lost.push(...left.map((delivery) => ({ delivery, missing: 'refused' as const })))
          break
        }
        for (const [n, found] of loaded.entries()) lost.push(...this.#take(left[n] as Delivery, found))
        left = left.slice(loaded.length)
      }
    }
    return lost
  }

  /** Undefined: refused. Where the group is gone, so is what was pending with it: it is delivered again. */
  async #ask(group: ConsumerGroup, deliveries: readonly Delivery[]): Promise<LoadedPayload[] | undefined> {
    const ids = deliveries.map(({ id }) => id)
    try {
      return await this.#link.requestOnce((client) => group.loadPayloads(client, ids, MAX_REPLY_BYTES))
    } catch (error) {
      if (isMissingGroup(error)) return ids.map((id) => ({ id, missing: 'gone' }))
      if (error instanceof StoppedError) throw error
      return undefined
    }
  }

  #take(delivery: Delivery, loaded: LoadedPayload): Missing[] {
    if ('missing' in loaded) {
      if (loaded.missing === 'trimmed') this.#onTrimmed(delivery.group, delivery.origin)
      return [{ delivery, missing: loaded.missing }]
    }
    if (delivery.state === 'gone') return []
    complete(delivery, loaded.fields)
    // What Redis counts as bytes may take more in memory. The schedule goes by `delivery.size` from the beginning of a call to its end.
    this.#keep(delivery, Math.max(delivery.size, byteSizeOf(loaded.fields)))
    return []
  }

  #keep(delivery: Delivery, size: number): void {
    const most = MAX_HELD_BYTES - this.#baseBytes - size
    if (this.#bytes > most) this.#evict(most - EVICTION_BYTES)
    this.#kept.set(delivery, size)
    this.#bytes += size
  }

  /** First those that a breaker holds up give up their payloads, then those that wait longest, then those that came last. */
  #evict(bytes: number): void {
    const until = ({ state, due }: Delivery) => (state === 'waiting' ? due : Number.MAX_VALUE)
    const spare = [...this.#spare].sort((a, b) => until(b) - until(a))
    for (const others of [() => spare, () => [...this.#kept.keys()].reverse()]) {
      for (const other of others()) {
        if (this.#bytes <= bytes) return
        if (other.state === 'running') continue
        this.#remove(other)
        giveUpPayload(other)
      }
    }
  }

  #remove(delivery: Delivery): void {
    this.claim(delivery)
    this.#bytes -= this.#kept.get(delivery) ?? 0
    this.#kept.delete(delivery)
  }
}
