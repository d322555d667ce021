import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { ConsumerMetrics } from '../metrics.js'
import type { ConsumerLogger } from '../options.js'

/**
 * Reports entries that were removed from a stream before the group had read them. They are gone from Redis when the group
 * reads on: from Redis 8 and in Valkey the next delivery also corrects the counter that shows it. So a reader that has paused
 * looks on its own connection, right before it reads again.
 */
export class UnreadWatch {
  readonly #metrics: Pick<ConsumerMetrics, 'unreadTrimmed'>
  readonly #log: ConsumerLogger
  /** The streams for which Redis does not permit it. */
  readonly #refused = new Set<string>()

  constructor(metrics: Pick<ConsumerMetrics, 'unreadTrimmed'>, log: ConsumerLogger) {
    this.#metrics = metrics
    this.#log = log
  }

  /** Sent at once, so what is sent on this client next is executed after it. Never rejects: the next look finds the same. */
  async look(client: RedisClient, groups: readonly ConsumerGroup[]): Promise<void> {
    const permitted = groups.filter(({ key }) => !this.#refused.has(key))
    await Promise.all(
      permitted.map((group) => this.#lookAt(client, group).catch((error) => this.#failed(group, error))),
    )
  }

  async #lookAt(client: RedisClient, group: ConsumerGroup): Promise<void> {
    const found = await group.unreadTrimmed(client)
    if (!found) return
    this.#metrics.unreadTrimmed(group.key, found.lost)
    this.#log.error(
      { stream: group.key, ...found },
      'entries were trimmed before this group read them: they are lost to it; the events are in the outbox, see ' +
        'OutriderConsumerTrimmed in docs/alerts.md',
    )
  }

  /** Other errors are those of the connection or the group, which the reader meets as well. */
  #failed(group: ConsumerGroup, error: unknown): void {
    if (this.#refused.has(group.key) || classifyRedisError(error).reason !== 'redis_noperm') return
    this.#refused.add(group.key)
    this.#log.warn(
      { stream: group.key, err: error },
      'entries that are trimmed unread cannot be noticed: the Redis user lacks a permission, see docs/redis-acl.md; restart the worker after it is granted',
    )
  }
}
