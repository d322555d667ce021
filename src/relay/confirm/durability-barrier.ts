import type { Head } from '../../event/head.js'
import type { RedisClient } from '../../redis/client/connect.js'
import {
  DurabilityUnmetError,
  type Level,
  loadBarrier,
  reachDurability,
  tryLevel,
} from '../../redis/streams/durability.js'
import { SideConnection } from '../side-connection.js'

/** Waits for durability on a connection of its own: a level that is not met says nothing of the connection. */
export class DurabilityBarrier {
  readonly #connection: SideConnection
  readonly #lineage: string
  readonly #session: string

  constructor(connect: () => Promise<RedisClient>, lineage: string, session: string) {
    this.#connection = new SideConnection({
      connect,
      prepare: loadBarrier,
      isHarmless: (error) => error instanceof DurabilityUnmetError,
    })
    this.#lineage = lineage
    this.#session = session
  }

  reach(level: Level, heads: ReadonlyMap<string, Head>): Promise<void> {
    return this.#connection.use((client) => reachDurability(client, level, this.#session, this.#lineage, heads))
  }

  try(level: Level): Promise<void> {
    return this.#connection.use((client) => tryLevel(client, level, this.#lineage))
  }

  close(): void {
    this.#connection.close()
  }
}
