import type { Group } from '../redis/group.js'
import { isMissingGroup, type Link, StoppedError } from './link.js'

interface Acked {
  id: string
  /** Something is remembered of its failed attempts. */
  failed: boolean
}

/** Milliseconds. */
const LINGER = 5

/** Tells Redis which entries are done, after their commits; many at once when many are done while Redis answers. */
export class Acks {
  readonly #link: Link
  readonly #onTold: () => void
  readonly #waiting = new Map<Group, Acked[]>()
  #sending: Promise<void> | undefined
  #size = 0

  /** `onTold`: called when Redis knows of some more. */
  constructor(link: Link, onTold: () => void) {
    this.#link = link
    this.#onTold = onTold
  }

  /** Those that Redis does not know of yet. */
  get size(): number {
    return this.#size
  }

  add(group: Group, id: string, failed: boolean): void {
    this.#size += 1
    const waiting = this.#waiting.get(group)
    if (waiting) waiting.push({ id, failed })
    else this.#waiting.set(group, [{ id, failed }])
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined
    })
  }

  /** Resolves when all that was added is acknowledged, or never will be by this consumer. */
  async settled(): Promise<void> {
    await this.#sending
  }

  async #send(): Promise<void> {
    while (this.#waiting.size > 0) {
      // What else is done meanwhile goes along: nobody waits for an acknowledgement, and each costs as much as many.
      await new Promise((resolve) => setTimeout(resolve, LINGER))
      const batch = [...this.#waiting]
      this.#waiting.clear()
      await Promise.all(batch.map(([group, acked]) => this.#sendTo(group, acked)))
    }
  }

  async #sendTo(group: Group, acked: Acked[]): Promise<void> {
    const ids = acked.map(({ id }) => id)
    const failed = acked.filter((ack) => ack.failed).map(({ id }) => id)
    try {
      await this.#link.ask((client) => group.acknowledge(client, ids, failed))
    } catch (error) {
      // What is gone with its group needs no acknowledgement, and what a stopped consumer could not say its successor will:
      // the inbox knows that it is done.
      if (!isMissingGroup(error) && !(error instanceof StoppedError)) throw error
    } finally {
      this.#size -= acked.length
      this.#onTold()
    }
  }
}
