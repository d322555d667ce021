import type { Head } from '../postgres/heads.js'
import { closeRedis, type RedisClient } from '../redis/connect.js'
import { type Level, LevelUnmet, loadBarrier, reachDurability, tryLevel } from '../redis/durability.js'

/**
 * The connection on which durability is waited for: not the one that publishes, which must never wait. Whatever goes
 * wrong on it but an unmet level drops it; the next round begins on a new one.
 */
export class Barrier {
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
      if (this.#closed) closeRedis(client)
      await loadBarrier(client)
      this.#client = client
    }
    try {
      await work(client)
    } catch (error) {
      if (!(error instanceof LevelUnmet) && (error as Error).name !== 'ReplyError') this.#drop(client)
      // The script is gone after a restart or a migration: the next connection loads it again.
      if (/^NOSCRIPT/.test((error as Error).message)) this.#drop(client)
      throw error
    }
  }

  #drop(client: RedisClient): void {
    closeRedis(client)
    if (this.#client === client) this.#client = undefined
  }
}
