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
  #client: RedisClient | undefined
  #closed = false

  constructor(options: SideConnectionOptions) {
    this.#options = options
  }

  async use<T>(work: (client: RedisClient) => Promise<T>): Promise<T> {
    if (this.#closed) throw new Error('The session has ended.')
    let client = this.#client
    if (client === undefined) {
      client = await this.#options.connect()
      this.#client = client
      this.#forgetWhenClosed(client)
      if (this.#closed) closeRedis(client)
      await this.#options.prepare?.(client).catch((error) => this.#drop(client as RedisClient, error))
    }
    return work(client).catch((error) => this.#drop(client as RedisClient, error))
  }

  close(): void {
    this.#closed = true
    if (this.#client) closeRedis(this.#client)
  }

  /** `-node`: one of a cluster's connections; without it the others are of no use either. */
  #forgetWhenClosed(client: RedisClient): void {
    for (const event of ['close', '-node']) {
      client.once(event, () => {
        closeRedis(client)
        if (this.#client === client) this.#client = undefined
      })
    }
  }

  /** An old primary may keep its connections when it becomes a replica: it would always refuse. */
  #drop(client: RedisClient, error: unknown): never {
    if (!this.#options.isHarmless(error)) {
      closeRedis(client)
      if (this.#client === client) this.#client = undefined
    }
    throw error
  }
}
