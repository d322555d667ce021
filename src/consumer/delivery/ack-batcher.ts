import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { isMissingGroup, type ReconnectingClient, StoppedError } from '../redis/reconnecting-client.js'

/** Entries of one stream, by id; true where something is remembered of failed attempts. */
type Entries = Map<string, boolean>

interface Queue {
  waiting: Entries
  sent: Entries
  sending: Promise<void> | undefined
}

/** Milliseconds. */
const LINGER = 5

/**
 * Tells Redis which entries are done, after their commits; many at once when many are done while Redis answers. Each stream for
 * itself: one that refuses holds up none of the others.
 */
export class AckBatcher {
  readonly #link: ReconnectingClient
  readonly #onTold: () => void
  readonly #queues = new Map<ConsumerGroup, Queue>()

  /** `onTold`: called when Redis knows of some more. */
  constructor(link: ReconnectingClient, onTold: () => void) {
    this.#link = link
    this.#onTold = onTold
  }

  /** How many Redis does not know of yet. */
  get size(): number {
    let size = 0
    for (const { waiting, sent } of this.#queues.values()) size += waiting.size + sent.size
    return size
  }

  /** Those that Redis does not know of yet. */
  ids(group: ConsumerGroup): string[] {
    const { waiting, sent } = this.#queueOf(group)
    return [...sent.keys(), ...waiting.keys()]
  }

  has(group: ConsumerGroup, id: string): boolean {
    const { waiting, sent } = this.#queueOf(group)
    return waiting.has(id) || sent.has(id)
  }

  add(group: ConsumerGroup, id: string, failed: boolean): void {
    const queue = this.#queueOf(group)
    queue.waiting.set(id, failed)
    this.#begin(group, queue)
  }

  #begin(group: ConsumerGroup, queue: Queue): void {
    queue.sending ??= this.#send(group, queue).finally(() => {
      queue.sending = undefined
      // Added since the last look.
      if (queue.waiting.size > 0) this.#begin(group, queue)
    })
  }

  /** Resolves when all that was added is acknowledged, or never will be by this consumer. */
  async settled(): Promise<void> {
    await Promise.all([...this.#queues.values()].map(({ sending }) => sending))
  }

  #queueOf(group: ConsumerGroup): Queue {
    const known = this.#queues.get(group)
    if (known) return known
    const queue = { waiting: new Map(), sent: new Map(), sending: undefined }
    this.#queues.set(group, queue)
    return queue
  }

  async #send(group: ConsumerGroup, queue: Queue): Promise<void> {
    while (queue.waiting.size > 0) {
      // What else is done meanwhile goes along: no one waits for an acknowledgement, and each costs as much as many.
      await new Promise((resolve) => setTimeout(resolve, LINGER))
      queue.sent = queue.waiting
      queue.waiting = new Map()
      const ids = [...queue.sent.keys()]
      const failed = ids.filter((id) => queue.sent.get(id))
      try {
        await this.#link.request((client) => group.acknowledge(client, ids, failed))
      } catch (error) {
        // What is gone with its group needs no acknowledgement, and what a stopped consumer could not say its successor will:
        // the inbox knows that it is done.
        if (!isMissingGroup(error) && !(error instanceof StoppedError)) throw error
      } finally {
        queue.sent = new Map()
        this.#onTold()
      }
    }
  }
}
