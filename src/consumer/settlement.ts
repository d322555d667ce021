import type { RedisClient } from '../redis/connect.js'
import type { Group, Moved } from '../redis/group.js'
import { Acks } from './acks.js'
import { type Item, type Remembered, waitFields } from './item.js'
import { isMissingGroup, type Link, StoppedError } from './link.js'
import type { ConsumerMetrics } from './metrics.js'
import type { ConsumerLogger } from './options.js'
import { cutText } from './retry.js'
import { LAST_WORDS, within } from './within.js'

/** How a line of the log names an item. */
export const told = (item: Item) => ({
  ...{ stream: item.group.stream, entry: item.origin, event: item.event.id, type: item.event.type },
})

const MOST_REASON = 200

/** What Redis is told of items: that they are done, dead, or somebody else's turn. */
export class Settlement {
  readonly #link: Link
  readonly #metrics: ConsumerMetrics
  readonly #log: ConsumerLogger
  readonly #acks: Acks

  constructor(link: Link, metrics: ConsumerMetrics, log: ConsumerLogger, onAcknowledged: () => void) {
    this.#link = link
    this.#metrics = metrics
    this.#log = log
    this.#acks = new Acks(link, onAcknowledged)
  }

  /** How many are done, and Redis does not know it yet. */
  get unacknowledged(): number {
    return this.#acks.size
  }

  /** Whether an entry is done, and Redis does not know it yet. */
  isDone(group: Group, id: string): boolean {
    return this.#acks.has(group, id)
  }

  /** Those of a stream that are done, and Redis does not know it yet. */
  doneOf(group: Group): string[] {
    return this.#acks.ids(group)
  }

  /** Resolves when Redis knows of all that is done, or never will by this consumer. */
  acknowledged(): Promise<void> {
    return this.#acks.settled()
  }

  /** Its effects are committed, now or before; or it is to be passed over. */
  done(item: Item, result: 'done' | 'duplicate' | 'skipped'): void {
    this.#metrics.processed(item.group.stream, item.event, result)
    this.#acks.add(item.group, item.id, item.attempts > 0 || item.since !== undefined)
  }

  /** Moves it to the dead letters; false where it is not pending with this consumer any more. */
  async bury(item: Item, reason: string, text: string): Promise<Moved> {
    const short = reason.slice(0, MOST_REASON)
    const error = cutText(text)
    const said = ['deadreason', short, 'deaderror', error, 'deadattempts', String(item.attempts)]
    said.push('deadtime', new Date().toISOString(), 'deadentry', item.origin)
    const buried = await this.#link.ask((client) => item.group.bury(client, item, said)).catch(unlessOver)
    if (buried !== true) return buried ?? false
    this.#metrics.buried(item.group.stream, item.event, short)
    this.#log.error({ ...told(item), reason: short, attempts: item.attempts, error }, 'an event is dead-lettered')
    return true
  }

  /**
   * Moves it to the waiting stream until that time. False where it is not pending with this consumer any more, or Redis has refused
   * or not answered: it may be there then as well, and the inbox keeps its effect single.
   */
  async setAside(item: Item, due: number, error: string): Promise<boolean> {
    const said = waitFields(item, due, error)
    return (await this.#link.once((client) => item.group.wait(client, item, due, said)).catch(() => false)) === true
  }

  /**
   * Counts the delivery of an item that was another consumer's before; false where it is no longer this one's, undefined where Redis has
   * refused or not answered.
   */
  async begin(item: Item): Promise<boolean | undefined> {
    try {
      return await this.#link.once((client) => item.group.begin(client, item.id))
    } catch (error) {
      return isMissingGroup(error) || error instanceof StoppedError ? false : undefined
    }
  }

  /** Whether another worker has acknowledged or dead-lettered it; a Redis that does not answer holds up no commit. */
  async isSettled(item: Item): Promise<boolean> {
    let settled = false
    const look = async (client: RedisClient) => {
      settled = await item.group.isSettled(client, item.id)
    }
    await within(this.#link.once(look), LAST_WORDS).catch(() => {})
    return settled
  }

  /** For whoever gets it, should this worker end. Not waited for: it is no more than a count. */
  remember(item: Item, what: Remembered): void {
    const text = JSON.stringify(what)
    void this.#link.ask((client) => item.group.fail(client, item.id, text)).catch(unlessOver)
  }

  /** Lets other consumers have them at once. */
  async release(items: readonly Item[]): Promise<void> {
    const groups = [...new Set(items.map((item) => item.group))]
    const each = groups.map(async (group) => {
      const own = items.filter((item) => item.group === group)
      // What was taken over and never begun was not counted, and so is not uncounted.
      const released = own.map(({ id, taken, begun }) => ({ id, uncounted: !taken || begun }))
      await this.#link.ask((client) => group.release(client, released)).catch(unlessOver)
    })
    await Promise.all(each)
  }
}

/** Of an entry whose group is gone, or from a consumer that has stopped, there is nothing more to be said. */
export function unlessOver(error: unknown): undefined {
  if (!isMissingGroup(error) && !(error instanceof StoppedError)) throw error
}
