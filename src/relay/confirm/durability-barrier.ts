import type { Head } from '../../event/head.js'
import { closeRedis, type RedisClient } from '../../redis/client/connect.js'
import {
  DurabilityUnmetError,
  type Level,
  loadBarrier,
  reachDurability,
  tryLevel,
} from '../../redis/streams/durability.js'

/**
 * The connection on which durability is waited for: not the one that publishes, which must never wait. Whatever goes
 * wrong on it but an unmet level drops it; the next round begins on a new one. Between rounds it is silent, and a server
 * with a `timeout` closes it: that is no fault.
 */
export class DurabilityBarrier {
  readonly #connect: () => Promise<RedisClient>
  readonly #lineage: string
  readonly #session: string
  #client: RedisClient | undefined
  #closed = false

  constructor(connect: () => Promise<RedisClient>, lineage: string, session: string) {
    this.#connect = connect
    this.#lineage = lineage
    this.#session = session
  }

  reach(level: Level, heads: ReadonlyMap<string, Head>): Promise<void> {
    return this.#use((client) => reachDurability(client, level, this.#session, this.#lineage, heads))
  }

  try(level: Level): Promise<void> {
    return this.#use((client) => tryLevel(client, level, this.#lineage))
  }

  close(): void {
    this.#closed = true
    if (this.#client) closeRedis(this.#client)
  }

  async #use(work: (client: RedisClient) => Promise<void>): Promise<void> {
    if (this.#closed) throw new Error('The session has ended.')
    let client = this.#client
    if (client === undefined) {
      client = await this.#connect()
      this.#client = client
      this.#forgetWhenClosed(client)
      if (this.#closed) closeRedis(client)
      await loadBarrier(client).catch((error) => this.#drop(client as RedisClient, error))
    }
    await work(client).catch((error) => this.#drop(client as RedisClient, error))
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

  /** An old primary may keep its connections when it becomes a replica: it would refuse for ever. */
  #drop(client: RedisClient, error: unknown): never {
    if (!(error instanceof DurabilityUnmetError)) {
      closeRedis(client)
      if (this.#client === client) this.#client = undefined
    }
    throw error
  }
}
