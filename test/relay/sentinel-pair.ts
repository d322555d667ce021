import { Redis as Client } from 'ioredis'
import { type Redis, startRedis, until, untilInStep } from '../../testkit/services/index.js'
import { failOver, masterOf, startSentinel } from '../support/sentinel.js'

/**
 * A sentinel takes a replica that was cut off for ten times as long, and no longer. So long that it promotes none by itself: on a busy
 * machine a primary that lives is silent for seconds.
 */
const DOWN_AFTER_MS = 60_000

/** A primary and its replica behind a sentinel, which promotes the replica when it is told to. */
export class SentinelPair {
  readonly url: string
  /** It connects again by itself. */
  readonly client: Client
  readonly primary: Redis
  readonly replica: Redis
  readonly #sentinel: number

  private constructor(primary: Redis, replica: Redis, sentinel: number) {
    this.primary = primary
    this.replica = replica
    this.#sentinel = sentinel
    this.url = `redis+sentinel://127.0.0.1:${sentinel}/main`
    this.client = new Client({
      sentinels: [{ host: '127.0.0.1', port: sentinel }],
      name: 'main',
      lazyConnect: true,
      retryStrategy: () => 50,
      maxRetriesPerRequest: null,
    })
    // Failovers are what these tests do; commands wait meanwhile.
    this.client.on('error', () => {})
  }

  /** Within a test, which ends the sentinel. */
  static async start(): Promise<SentinelPair> {
    const primary = await startRedis()
    const replica = await startRedis({ replicaOf: primary })
    await untilInStep(primary, replica)
    return new SentinelPair(primary, replica, await startSentinel(primary.port, DOWN_AFTER_MS))
  }

  /** The replica becomes the primary, with what it has, and the old primary follows it if it runs. */
  async failOver(): Promise<void> {
    await failOver(this.#sentinel)
    await until(async () => (await masterOf(this.#sentinel)) === this.replica.port, {
      message: 'the replica to be promoted',
    })
  }

  async remove(): Promise<void> {
    this.client.disconnect()
    await Promise.all([this.primary.remove(), this.replica.remove()])
  }
}
