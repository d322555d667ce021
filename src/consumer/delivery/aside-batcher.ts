import type { AsideEntry, ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Moved } from '../../redis/streams/group-replies.js'
import { isReply, type ReconnectingClient } from '../redis/reconnecting-client.js'

/** An entry with its bytes, and the call that tells what became of it. */
interface Aside {
  entry: AsideEntry
  size: number
  resolve(moved: Moved | 'refused'): void
}

/** In one call: a script keeps all others waiting. */
const MAX_ENTRIES = 100
const MAX_BYTES = 2 ** 20

/**
 * Moves entries to the waiting stream; many at once when many are to be moved while Redis answers, because a handler that fails may have
 * thousands of them. Each stream for itself: one that refuses holds up none of the others.
 */
export class AsideBatcher {
  readonly #link: ReconnectingClient
  readonly #queues = new Map<ConsumerGroup, Aside[]>()
  #size = 0

  constructor(link: ReconnectingClient) {
    this.#link = link
  }

  /** How many Redis has not answered for yet. */
  get size(): number {
    return this.#size
  }

  /** Asks until Redis has answered: a repeat makes no second entry. Never rejects. */
  move(group: ConsumerGroup, entry: AsideEntry, size: number): Promise<Moved | 'refused'> {
    this.#size += 1
    return new Promise((resolve) => {
      const queue = this.#queues.get(group)
      if (queue) queue.push({ entry, size, resolve })
      else void this.#send(group, [{ entry, size, resolve }])
    })
  }

  async #send(group: ConsumerGroup, queue: Aside[]): Promise<void> {
    this.#queues.set(group, queue)
    // Those of the same turn go along.
    await Promise.resolve()
    while (queue.length > 0) {
      const batch = queue.splice(0, countOf(queue))
      const entries = batch.map(({ entry }) => entry)
      const moved = await this.#link.request((client) => group.setAside(client, entries), isReply).catch(() => [])
      this.#size -= batch.length
      for (const [place, { resolve }] of batch.entries()) resolve(moved[place] ?? 'refused')
    }
    this.#queues.delete(group)
  }
}

/** How many go into one call: one at least. */
function countOf(queue: readonly Aside[]): number {
  let bytes = 0
  const end = queue.slice(0, MAX_ENTRIES).findIndex(({ size }) => {
    bytes += size
    return bytes > MAX_BYTES
  })
  return end < 0 ? MAX_ENTRIES : Math.max(1, end)
}
