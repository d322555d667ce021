import { setTimeout as pause } from 'node:timers/promises'
import { until } from '../../testkit/services/index.js'
import { insertEvent } from './event-row.js'
import type { HealingEnv } from './healing-env.js'

const MAX_OPEN_MS = 25_000

export interface Straddle {
  /** How long it stays open, in milliseconds; undefined: until a repair has put events back, which it is not one of. */
  openMs: number | undefined
  isPrepared: boolean
}

/** Transactions that write now and end later, each on a connection of its own. */
export class Straddlers {
  readonly #env: HealingEnv
  readonly #open: Promise<void>[] = []
  #begun = 0

  constructor(env: HealingEnv) {
    this.#env = env
  }

  /**
   * Has written when this resolves. What it resolves with writes once more, and lets it end later: Postgres decodes each row by
   * the publication as it was then, if it has changed within the transaction.
   */
  async begin({ openMs, isPrepared }: Straddle): Promise<() => Promise<void>> {
    const subject = `straddler ${this.#begun++}`
    const client = await this.#env.database.connect()
    await client.query('begin')
    await insertEvent(client, 'orders', subject)
    const end = async (since: number) => {
      if (openMs === undefined) await this.#repaired(since)
      else await pause(openMs)
      if (!isPrepared) await insertEvent(client, 'orders', subject)
      await client.query(isPrepared ? `commit prepared '${subject}'` : 'commit')
      await client.end()
    }
    return async () => {
      await insertEvent(client, 'orders', subject)
      if (isPrepared) await client.query(`prepare transaction '${subject}'`)
      this.#open.push(end(Date.now()))
    }
  }

  /** A new slot waits for this transaction, so it must end. */
  async #repaired(since: number): Promise<void> {
    await until(() => this.#env.hasSaid('repaired', since), { timeout: MAX_OPEN_MS }).catch(() => {})
  }

  /** Until all have ended. */
  async ended(): Promise<void> {
    await Promise.all(this.#open)
  }
}
