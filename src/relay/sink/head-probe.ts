import { inBatches } from '../../base/in-batches.js'
import type { Head } from '../../event/head.js'
import type { Position } from '../../event/position.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { type HeadOwnership, probeHead } from './head-ownership.js'
import { isReplaced, LossError, lossOf } from './loss.js'
import type { ReconnectingRedis } from './reconnecting-redis.js'
import type { Refusals } from './refusals.js'
import { StreamQueue } from './stream-queue.js'
import type { IdleStream, StreamQueues } from './stream-queues.js'

/** Streams that are probed in a tick, and at once when an epoch begins. */
const PROBES = 200

export interface HeadProbeOptions {
  ownership: Pick<HeadOwnership, 'lineage' | 'session'>
  redis: ReconnectingRedis
  streams: StreamQueues
  refusals: Refusals
  lost(loss: LossError): void
}

/** Verifies that heads have reached what was acknowledged in this session: finds a loss where nothing flows. */
export class HeadProbe {
  readonly #options: HeadProbeOptions

  constructor(options: HeadProbeOptions) {
    this.#options = options
  }

  /** Is everything that was acknowledged in this session still there? Rejects as `#verify` does. */
  async verifyAll(client: RedisClient): Promise<void> {
    const { streams } = this.#options
    const open = [...streams.used.values()].filter((queue) => queue.state === 'open')
    await inBatches(open, PROBES, async (queue) => {
      queue.verified(await this.#verify(client, queue.key, queue.acknowledged))
    })
    await inBatches(streams.idle, PROBES, ([key, position]) => this.#verify(client, key, position))
  }

  /** Probes the next streams in turn, of those where nothing is in flight. */
  tick(client: RedisClient): void {
    const { streams } = this.#options
    const { size } = streams
    if (size === 0) this.#keepAlive(client)
    for (let i = 0; i < Math.min(PROBES, size); i++) {
      const stream = streams.next()
      if (!(stream instanceof StreamQueue)) this.#probeIdle(client, stream)
      else if (stream.inFlight === 0 && (stream.state === 'open' || stream.state === 'refused')) {
        this.#probeQueue(client, stream)
      }
    }
  }

  #probeIdle(client: RedisClient, [key, expected]: IdleStream): void {
    const { redis, lost } = this.#options
    this.#verify(client, key, expected).catch((error: Error) => {
      if (!redis.isCurrent(client)) return
      if (error instanceof LossError) lost(error)
      // A refusal says nothing about what the stream holds: the next epoch asks again.
      else redis.broken(client, error.message)
    })
  }

  #probeQueue(client: RedisClient, queue: StreamQueue): void {
    const { redis, ownership, lost, refusals } = this.#options
    const expected = queue.acknowledged
    probeHead(client, queue.key, expected, ownership).then(
      (reply) => {
        if (!redis.isCurrent(client)) return
        if (reply.status === 'OK') {
          if (queue.state === 'refused') refusals.readmit(queue, reply.head)
        } else if (reply.status === 'ERROR') {
          if (queue.state === 'open') refusals.refused(client, queue, undefined, reply)
        } else lost(lossOf(queue.key, reply, expected))
      },
      (error: Error) => redis.broken(client, error.message),
    )
  }

  /** Before the first stream there is nothing to probe, and a server with a `timeout` would close a silent connection. */
  #keepAlive(client: RedisClient): void {
    client.ping().catch((error: Error) => {
      // A PING that is not permitted was answered, too.
      if (error.name !== 'ReplyError') this.#options.redis.broken(client, error.message)
    })
  }

  /** Rejects with a LossError if the head has not reached `expected`, and with the reply of Redis if it refuses to answer. */
  async #verify(client: RedisClient, key: string, expected: Position): Promise<Head> {
    const reply = await probeHead(client, key, expected, this.#options.ownership)
    if (reply.status === 'OK') return reply.head
    if (reply.status !== 'ERROR') throw lossOf(key, reply, expected)
    if (isReplaced(reply.error, expected)) throw new LossError('BEHIND', key, reply, expected)
    throw new Error(reply.error)
  }
}
