import { closeRedis, type RedisClient } from '../redis/client/connect.js'

export interface SideConnectionOptions {
  connect(): Promise<RedisClient>
  /** Makes scripts known. */
  prepare?(client: RedisClient): Promise<void>
  /** Does this error say nothing of the connection? Any other one closes it. */
  isHarmless(error: unknown): boolean
}

/**
 * A connection beside the one that publishes, which must never wait. Whatever goes wrong on it closes it; the next use begins on a new
 * one. Between two uses it is silent, and a server with a `timeout` closes it: that is no fault.
 */
export class SideConnection {
  readonly #options: SideConnectionOptions
  /** Shared by all that use it at once, also while it is being made. */
  #opened: Promise<RedisClient> | undefined
  #closed = false

  constructor(options: SideConnectionOptions) {
    this.#options = options
  }

  async use<T>(work: (client: RedisClient) => Promise<T>): Promise<T> {
    if (this.#closed) throw new Error('The session has ended.')
    const opened = this.#opened ?? this.#open()
    const client = await opened
    try {
      return await work(client)
    } catch (error) {
      // An old primary may keep its connections when it becomes a replica: it would always refuse.
      if (!this.#options.isHarmless(error)) {
        closeRedis(client)
        this.#forget(opened)
      }
      throw error
    }
  }

  close(): void {
    this.#closed = true
    this.#opened?.then(closeRedis, () => {})
  }

  #open(): Promise<RedisClient> {
    const opened = this.#connect()
    this.#opened = opened
    opened.then(
      (client) => {
        // `-node`: one of a cluster's connections; without it the others are of no use either.
        for (const event of ['close', '-node']) {
          client.once(event, () => {
            closeRedis(client)
            this.#forget(opened)
          })
        }
      },
      () => this.#forget(opened),
    )
    return opened
  }

  async #connect(): Promise<RedisClient> {
    const client = await this.#options.connect()
    await this.#options.prepare?.(client).catch((error) => {
      closeRedis(client)
      throw error
    })
    return client
  }

  #forget(opened: Promise<RedisClient>): void {
    if (this.#opened === opened) this.#opened = undefined
  }
}
