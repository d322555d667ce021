import type { RedisClient } from '../../redis/client/connect.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Moved } from '../../redis/streams/group-replies.js'
import type { ConsumerMetrics } from '../metrics.js'
import type { ConsumerLogger } from '../options.js'
import { isMissingGroup, isReply, type ReconnectingClient, StoppedError } from '../redis/reconnecting-client.js'
import { LAST_WORDS, withTimeout } from '../with-timeout.js'
import { AckBatcher } from './ack-batcher.js'
import { AsideBatcher } from './aside-batcher.js'
import { type Delivery, type Remembered, waitFields } from './delivery.js'
import { cutText } from './retry-policy.js'

/** How a line of the log names a delivery. */
export const logFields = (delivery: Delivery) => ({
  ...{ stream: delivery.group.stream, entry: delivery.origin, event: delivery.event.id, type: delivery.event.type },
})

const MOST_REASON = 200

/** What Redis is told of deliveries: that they are done, dead, or someone else's turn. */
export class Settler {
  readonly #link: ReconnectingClient
  readonly #metrics: ConsumerMetrics
  readonly #log: ConsumerLogger
  readonly #acks: AckBatcher
  readonly #asides: AsideBatcher

  constructor(link: ReconnectingClient, metrics: ConsumerMetrics, log: ConsumerLogger, onAcknowledged: () => void) {
    this.#link = link
    this.#metrics = metrics
    this.#log = log
    this.#acks = new AckBatcher(link, onAcknowledged)
    this.#asides = new AsideBatcher(link)
  }

  /** How many are done, and Redis does not know it yet. */
  get unacknowledged(): number {
    return this.#acks.size
  }

  /** How many are on their way to the waiting stream. */
  get settingAside(): number {
    return this.#asides.size
  }

  /** Whether an entry is done, and Redis does not know it yet. */
  isDone(group: ConsumerGroup, id: string): boolean {
    return this.#acks.has(group, id)
  }

  /** Those of a stream that are done, and Redis does not know it yet. */
  doneOf(group: ConsumerGroup): string[] {
    return this.#acks.ids(group)
  }

  /** Resolves when Redis knows of all that is done, or never will by this consumer. */
  acknowledged(): Promise<void> {
    return this.#acks.settled()
  }

  /** Its effects are committed, now or before; or it is to be passed over. */
  done(delivery: Delivery, result: 'done' | 'duplicate' | 'skipped'): void {
    this.#metrics.processed(delivery.group.stream, delivery.event, result)
    this.#acks.add(delivery.group, delivery.id, delivery.attempts > 0 || delivery.since !== undefined)
  }

  /** Moves it to the dead letters; false where it is not pending with this consumer any more. A repeat writes no second letter. */
  async deadLetter(delivery: Delivery, reason: string, text: string, attempt: number): Promise<Moved | 'refused'> {
    const short = reason.slice(0, MOST_REASON)
    const error = cutText(text)
    const said = ['deadreason', short, 'deaderror', error, 'deadattempts', String(delivery.attempts)]
    said.push('deadtime', new Date().toISOString(), 'deadentry', delivery.origin)
    let moved: Moved
    try {
      moved = await this.#link.requestOnce((client) => delivery.group.deadLetter(client, delivery, said))
    } catch (error) {
      if (isMissingGroup(error) || error instanceof StoppedError) return false
      // Of a lost connection the client says it.
      if (isReply(error) && attempt % 10 === 1) {
        const line = { ...logFields(delivery), reason: short, err: error }
        this.#log.error(line, 'Redis refuses a dead letter; the event is kept, and the dead letter is tried again')
      }
      return 'refused'
    }
    if (moved !== true) return moved
    this.#metrics.deadLettered(delivery.group.stream, delivery.event, short)
    this.#log.error(
      { ...logFields(delivery), reason: short, attempts: delivery.attempts, error },
      'an event is dead-lettered',
    )
    return true
  }

  /**
   * Moves it to the waiting stream until that time, asking until Redis has answered: a repeat makes no second entry. False where it is
   * not pending with this consumer any more.
   */
  async setAside(delivery: Delivery, due: number, error: string): Promise<Moved | 'refused'> {
    const { group, id, fields, size } = delivery
    return this.#asides.move(group, { id, fields, due, said: waitFields(delivery, due, error) }, size)
  }

  /**
   * Counts that an entry which was another consumer's before was delivered here as well; false where it is no longer this one's, undefined where Redis has
   * refused or not answered.
   */
  async begin(delivery: Delivery): Promise<boolean | undefined> {
    try {
      return await this.#link.requestOnce((client) => delivery.group.startDelivery(client, delivery.id))
    } catch (error) {
      return isMissingGroup(error) || error instanceof StoppedError ? false : undefined
    }
  }

  /** Whether another worker has acknowledged or dead-lettered it; a Redis that does not answer holds up no commit. */
  async isSettled(delivery: Delivery): Promise<boolean> {
    let settled = false
    const look = async (client: RedisClient) => {
      settled = await delivery.group.isSettled(client, delivery.id)
    }
    await withTimeout(this.#link.requestOnce(look), LAST_WORDS).catch(() => {})
    return settled
  }

  /** For the next worker, should this one end. Not waited for: it is no more than a count. */
  remember(delivery: Delivery, what: Remembered): void {
    const text = JSON.stringify(what)
    void this.#link.request((client) => delivery.group.recordFailure(client, delivery.id, text)).catch(unlessOver)
  }

  /** An entry was trimmed, and its payload is not here. */
  trimmed({ stream }: ConsumerGroup, entry: string): void {
    this.#metrics.trimmed(stream)
    this.#log.error({ stream, entry }, 'an entry was trimmed while it was pending: it is lost to this group')
  }

  /** Lets other consumers have them, at once or when they count as idle for `claimAfter`: see ConsumerGroup.release. */
  async release(deliveries: readonly Delivery[], idle?: number): Promise<void> {
    const groups = [...new Set(deliveries.map((delivery) => delivery.group))]
    const each = groups.map(async (group) => {
      const own = deliveries.filter((delivery) => delivery.group === group)
      // One that was taken over is counted when it is begun.
      const released = own.map(({ id, taken, counted }) => ({ id, uncounted: !taken || counted }))
      const deleted = await this.#link.request((client) => group.release(client, released, idle)).catch(unlessOver)
      if (!deleted || deleted.length === 0) return
      const ids = new Set(deleted)
      for (const { id, origin } of own) if (ids.has(id)) this.trimmed(group, origin)
    })
    await Promise.all(each)
  }
}

/** Of an entry whose group is gone, or from a consumer that has stopped, there is nothing more to be said. */
export function unlessOver(error: unknown): undefined {
  if (!isMissingGroup(error) && !(error instanceof StoppedError)) throw error
}
