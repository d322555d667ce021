import { pause } from '../../base/backoff.js'
import { closeRedis, type RedisClient } from '../../redis/client/connect.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import { type Backoff, exponential } from '../delivery/retry-policy.js'
import type { ConsumerLogger } from '../options.js'

/** The group, or its stream, is missing: it was deleted, or Redis lost it. What was pending in it is pending no more. */
export const isMissingGroup = (error: unknown): boolean =>
  error instanceof Error &&
  /\bNOGROUP\b|requires the key to exist|no such key|stream key no longer exists/.test(error.message)

/** Redis has answered, and changed nothing; else the outcome is not known. */
export const isReply = (error: unknown): boolean => error instanceof Error && error.name === 'ReplyError'

/** Thrown to those that wait for a connection when the consumer has stopped. */
export class StoppedError extends Error {
  override name = 'StoppedError'
}

const SAY_AGAIN_AFTER = 30_000

/**
 * A connection to Redis that is made again whenever it is lost, and what is asked over it is asked again: all that a
 * consumer asks may be asked twice.
 */
export class ReconnectingClient {
  readonly #connect: () => Promise<RedisClient>
  readonly #log: ConsumerLogger
  readonly #backoff: Backoff = exponential(100, 5_000)
  readonly #closed = new AbortController()
  #client: RedisClient | undefined
  #connecting: Promise<RedisClient> | undefined
  #failures = 0
  #said = { reason: '', at: 0 }

  constructor(connect: () => Promise<RedisClient>, log: ConsumerLogger) {
    this.#connect = connect
    this.#log = log
  }

  /** The first connection: what a person has to fix rejects, and so does what cannot be reached. */
  async open(): Promise<void> {
    const client = await this.#connect()
    if (!this.#closed.signal.aborted) {
      this.#client = client
      return
    }
    closeRedis(client)
    throw new StoppedError('The consumer was stopped while it started')
  }

  /** Waits until there is a connection. */
  async client(): Promise<RedisClient> {
    if (this.#closed.signal.aborted) throw new StoppedError('The consumer has stopped')
    if (this.#client && isAlive(this.#client)) return this.#client
    this.#connecting ??= this.#reconnect().finally(() => {
      this.#connecting = undefined
    })
    return this.#connecting
  }

  /**
   * Asks until it is answered, through lost connections and refusals that may pass. Rejects where the group is missing, or what else
   * is final, and with a StoppedError once the consumer has stopped.
   */
  async request<T>(
    question: (client: RedisClient) => Promise<T>,
    isFinal: (error: unknown) => boolean = isMissingGroup,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const client = await this.client()
      try {
        const answer = await question(client)
        this.#failures = 0
        return answer
      } catch (error) {
        if (!isMissingGroup(error)) this.fault(client, error)
        if (isFinal(error)) throw error
        await pause(this.#backoff(attempt), this.#closed.signal)
      }
    }
  }

  /** Asks once, for what comes again by itself. Rejects with what went wrong, of which all is said. */
  async requestOnce<T>(question: (client: RedisClient) => Promise<T>): Promise<T> {
    const client = await this.client()
    try {
      return await question(client)
    } catch (error) {
      if (!isMissingGroup(error)) this.fault(client, error)
      throw error
    }
  }

  /** Something went wrong on this client: said, and unless it was a mere refusal, the connection is given up. */
  fault(client: RedisClient, error: unknown): void {
    if (this.#closed.signal.aborted) return
    this.#say(classifyRedisError(error).reason, error)
    // Another request has met the same: with each close ioredis adds a timer, and a listener to the socket.
    if (isRefusal(error) || client !== this.#client) return
    closeRedis(client)
    this.#client = undefined
  }

  close(): void {
    this.#closed.abort()
    if (this.#client) closeRedis(this.#client)
    this.#client = undefined
  }

  async #reconnect(): Promise<RedisClient> {
    // It ended while nothing was asked over it, so nothing was said of that.
    const hasEnded = this.#client !== undefined
    if (this.#client) closeRedis(this.#client)
    this.#client = undefined
    for (;;) {
      if (this.#closed.signal.aborted) throw new StoppedError('The consumer has stopped')
      try {
        const client = await this.#connect()
        if (this.#closed.signal.aborted) closeRedis(client)
        else {
          if (hasEnded || LOST.has(this.#said.reason)) {
            this.#log.info({}, 'connected to Redis again')
            this.#said.at = 0
          }
          this.#client = client
          return client
        }
      } catch (error) {
        this.#say(classifyRedisError(error).reason, error)
        await pause(this.#backoff(++this.#failures), this.#closed.signal)
      }
    }
  }

  /** Once, and then now and then while it lasts. */
  #say(reason: string, error: unknown): void {
    const now = performance.now()
    if (this.#said.reason === reason && this.#said.at > 0 && now - this.#said.at < SAY_AGAIN_AFTER) return
    this.#said = { reason, at: now }
    this.#log.warn({ reason, err: error }, 'Redis cannot be used; the consumer continues once it can')
  }
}

/** What a new connection fixes. A replica, for one, takes connections, and refuses what is asked over them. */
const LOST = new Set(['redis_unreachable', 'redis_timeout', 'redis_loading', 'redis_maxclients', 'redis_credentials'])

/** What leaves the connection as it is. */
const REFUSALS = new Set([
  'redis_oom',
  'redis_misconf',
  'redis_noreplicas',
  'redis_noperm',
  'redis_busy',
  'wrong_type',
  'stream_exhausted',
])

/** Redis has answered, and would not do it: for this key, or at this time. The connection is as good as before. */
export const isRefusal = (error: unknown): boolean => REFUSALS.has(classifyRedisError(error).reason)

const isAlive = (client: RedisClient): boolean => client.status === 'ready' || client.status === 'connect'
