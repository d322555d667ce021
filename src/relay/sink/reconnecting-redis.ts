import { EventEmitter, once } from 'node:events'
import { backoff, pause } from '../../base/backoff.js'
import { closeRedis, type RedisClient } from '../../redis/client/connect.js'
import { classifyRedis, classifyRedisError } from '../../redis/client/errors.js'
import { LossError } from './loss.js'
import { ReplyDeadline } from './reply-deadline.js'

export interface ReconnectingRedisOptions {
  /** No epoch begins once it aborts. */
  signal: AbortSignal
  /** Milliseconds after which a command without a reply fails; undefined: as usual. */
  connect(commandTimeout?: number): Promise<RedisClient>
  /** Runs on each new connection before its epoch begins. A LossError ends the session; after any other error it is retried. */
  prepare(client: RedisClient): Promise<void>
  began(): void
  lost(loss: LossError): void
  /** An epoch ended, and why; undefined once Redis takes what waits. */
  blocked(reason: string | undefined, message: string): void
}

/**
 * An epoch is one connection to Redis. Every fault ends it: the connection is destroyed, so that no late reply can meet a
 * later command, and the outcome of what was in flight is unknown. Then the next one is prepared, after a pause that grows
 * with the number of faults since events were last appended.
 */
export class ReconnectingRedis {
  readonly #options: ReconnectingRedisOptions
  readonly #deadline = new ReplyDeadline()
  readonly #emitter = new EventEmitter()
  #client: RedisClient | undefined
  /** Since events were last appended: a Redis that answers, but refuses, is not asked again at once. */
  #faults = 0
  /** An epoch began, and it is not known yet whether Redis takes events: it may answer and refuse every write. */
  #unproven = false

  constructor(options: ReconnectingRedisOptions) {
    this.#options = options
  }

  /** The connection of the running epoch; undefined between two. */
  get client(): RedisClient | undefined {
    return this.#client
  }

  isCurrent(client: RedisClient): boolean {
    return client === this.#client
  }

  /** Begins the first epoch. Resolves when Redis answers. */
  start(): Promise<void> {
    return this.#recover()
  }

  /** Resolves with the connection of the running epoch, or of the next one; undefined if the signal aborts before that. */
  async connected(signal: AbortSignal): Promise<RedisClient | undefined> {
    while (this.#client === undefined && !signal.aborted) {
      await once(this.#emitter, 'began', { signal }).catch(() => {})
    }
    return this.#client
  }

  /** Ends the epoch: something about its connection, or a reply on it, was not as it should be. */
  broken(client: RedisClient, message: string, reason = classifyRedis(message).reason): void {
    if (!this.isCurrent(client) || this.#options.signal.aborted) return
    this.#client = undefined
    this.#unproven = false
    this.#faults += 1
    if (reason === 'redis_timeout') this.#deadline.timedOut()
    closeRedis(client)
    this.#options.blocked(reason, message)
    void this.#recover()
  }

  /** Redis appended a batch. */
  appended(sentAt: number, now: number): void {
    this.#faults = 0
    this.#deadline.replied(sentAt, now)
    this.proven()
  }

  /** Redis takes events, or none wait. */
  proven(): void {
    if (!this.#unproven) return
    this.#unproven = false
    this.#options.blocked(undefined, '')
  }

  /** Ends the epoch if the reply to a batch that was sent at `sentAt` is overdue; whether it did. */
  endIfOverdue(client: RedisClient, sentAt: number, now: number): boolean {
    if (!this.#deadline.isPast(sentAt, now)) return false
    this.broken(client, `no reply for ${this.#deadline.milliseconds} ms`, 'redis_timeout')
    return true
  }

  close(): void {
    if (this.#client) closeRedis(this.#client)
    this.#client = undefined
  }

  async #recover(): Promise<void> {
    const { signal, connect, prepare, blocked, lost } = this.#options
    for (; !signal.aborted; this.#faults++) {
      let client: RedisClient | undefined
      try {
        if (this.#faults > 0) await pause(backoff(this.#faults, 100, 2_000), signal)
        if (signal.aborted) return
        client = await connect(this.#deadline.commandTimeout)
        await prepare(client)
        if (signal.aborted) {
          closeRedis(client)
          return
        }
        this.#begin(client)
        return
      } catch (error) {
        if (client) closeRedis(client)
        if (signal.aborted) return
        if (error instanceof LossError) {
          lost(error)
          return
        }
        blocked(classifyRedisError(error).reason, (error as Error).message)
      }
    }
  }

  #begin(client: RedisClient): void {
    this.#client = client
    client.once('close', () => this.broken(client, 'Redis closed the connection', 'redis_unreachable'))
    this.#unproven = true
    this.#options.began()
    this.#emitter.emit('began')
  }
}
