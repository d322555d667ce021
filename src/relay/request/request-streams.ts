import type pg from 'pg'
import { inBatches } from '../../base/in-batches.js'
import type { Head } from '../../event/head.js'
import { streamKey, streamOf } from '../../event/names.js'
import { ZERO_POSITION } from '../../event/position.js'
import {
  addRequestStreams,
  type Executor,
  loadRequestStreams,
  type RunningRequest,
  requestedStreams,
} from '../../postgres/state/requests.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import { readEventIds, readStreamEnd, verifyWritable } from '../../redis/streams/repair.js'
import { PresentIds } from '../repair/missing-rows.js'
import type { Publisher } from '../sink/publisher.js'
import type { StreamQueue } from '../sink/stream-queue.js'

/** Streams whose heads are taken over, or looked at, at once. */
const STREAMS_AT_ONCE = 100
/** Streams whose ids are read at once: each call keeps Redis from other work for a moment. */
const READ_AT_ONCE = 8

/** The request cannot be executed, and would not be if it were tried again. */
export class RequestRefusedError extends Error {
  override name = 'RequestRefusedError'
}

export interface RequestStreamsOptions {
  client: pg.Client
  executor: Executor
  request: RunningRequest
  source: string
  partitions: Readonly<Record<string, number>>
  publisher: Publisher
  /** Over a connection beside the one that publishes. */
  useRedis<T>(work: (client: RedisClient) => Promise<T>): Promise<T>
  signal: AbortSignal
}

/**
 * The streams that a request appends to. Before its first event, the head of a stream is this session's, so that no earlier one adds
 * more, and the stream's last entry is recorded: a later session finds behind it what was appended.
 */
export class RequestStreams {
  readonly #options: RequestStreamsOptions
  /** By key: rows up to this `seq` are in the stream. */
  readonly #through = new Map<string, bigint>()

  constructor(options: RequestStreamsOptions) {
    this.#options = options
  }

  /** Rows of the stream up to this `seq` need not be appended. Undefined: the stream is not open yet. */
  through(key: string): bigint | undefined {
    return this.#through.get(key)
  }

  /** Those that an earlier session has appended to, or that an audit has found events missing in: records the ids of what they have. */
  async load(): Promise<void> {
    const { client, executor, request, source, useRedis } = this.#options
    let known = await loadRequestStreams(client, executor, request)
    if (request.kind === 'audit' && known.length === 0) {
      // What the stream already has is not missing, wherever it lies.
      const keys = await this.#keysOfEvents()
      await addRequestStreams(client, executor, request, new Map(keys.map((key) => [key, '0-0'])))
      known = keys.map((key) => ({ key, from: '0-0', through: 0n }))
    }
    await inBatches(known, STREAMS_AT_ONCE, ({ key }) => this.#open(key))
    const present = new PresentIds(client, executor.lineage, executor.session)
    await inBatches(known, READ_AT_ONCE, ({ key, from }) =>
      useRedis(async (redis) => {
        for await (const ids of readEventIds(redis, key, source, `(${from}`)) await present.add(streamOf(key), ids)
      }),
    )
    await present.flush()
    for (const { key, through } of known) this.#through.set(key, through)
  }

  /** Opens streams that were not known. */
  async open(keys: ReadonlySet<string>): Promise<void> {
    const { client, executor, request, useRedis } = this.#options
    const fresh = [...keys].filter((key) => !this.#through.has(key))
    if (fresh.length === 0) return
    const ends = new Map<string, string>()
    await inBatches(fresh, STREAMS_AT_ONCE, async (key) => {
      await this.#open(key)
      const { last } = await useRedis((redis) => readStreamEnd(redis, key))
      ends.set(key, last || '0-0')
    })
    await addRequestStreams(client, executor, request, ends)
    for (const key of fresh) this.#through.set(key, 0n)
  }

  /** The heads of these streams as they are now; all of them are saved by the next round of confirming. */
  async heads(keys: Iterable<string> = this.#through.keys()): Promise<Map<string, Head>> {
    const heads = new Map<string, Head>()
    await inBatches(keys, STREAMS_AT_ONCE, async (key) => {
      const queue = await this.#open(key)
      // A stream that has no event yet has no head to be saved.
      if (queue.head.position === ZERO_POSITION) return
      queue.markMoved()
      heads.set(key, queue.head)
    })
    return heads
  }

  async #open(key: string): Promise<StreamQueue> {
    const { publisher, signal } = this.#options
    if (publisher.queue(key).state === 'new') await this.#verifyWritable(key)
    const queue = await publisher.opened(key, signal)
    if (queue.state === 'open') return queue
    throw new RequestRefusedError(
      `Redis refuses the stream ${key} (${queue.refusal}). Correct its key, or leave the stream out, and run the command again.`,
    )
  }

  /** Without the permission, the publisher would wait for it with all streams. */
  async #verifyWritable(key: string): Promise<void> {
    const { executor, useRedis } = this.#options
    try {
      await useRedis((redis) => verifyWritable(redis, key, executor.lineage))
    } catch (error) {
      if (classifyRedisError(error).reason !== 'redis_noperm') throw error
      throw new RequestRefusedError(
        `The relay's Redis user may not write to the stream ${key} (redis_noperm). Permit the stream, see docs/redis-acl.md, or leave it out, and run the command again.`,
      )
    }
  }

  async #keysOfEvents(): Promise<string[]> {
    const { client, partitions, request } = this.#options
    const streams = await requestedStreams(client, request.id)
    return streams.flatMap((stream) => {
      const count = partitions[stream]
      return count ? Array.from({ length: count }, (_, n) => streamKey(stream, n)) : [streamKey(stream)]
    })
  }
}
