import { pause } from '../../base/backoff.js'
import { aliveKey } from '../../event/names.js'
import { newId } from '../../producer/id.js'
import type { RedisClient } from '../../redis/client/connect.js'

/** A UUID of version 7, which says that the session renews the alive key. Before there was that key they were of version 4. */
export const newSession = newId

/** Would a relay of this session be heard? */
export const renewsAliveKey = (session: string): boolean => session[14] === '7'

export interface AliveKeyOptions {
  lineage: string
  session: string
  /** Did this database issue the session? */
  owns(session: string): Promise<boolean>
  /** Aborted when the session ends. */
  signal: AbortSignal
  /** Redis refused to set the key. */
  refused(error: Error): void
  renewEveryMs?: number
  expiresAfterMs?: number
  /** Must be longer than `renewEveryMs`, several times: then every relay that leads has been heard. */
  listenMs?: number
}

/**
 * A key that the leader of a lineage renews and that expires without it. A database that was promoted cannot tell its own
 * relay before the failover from the relay of a database that still runs; only the second one renews the key. Who listens
 * renews it as well, so that of two that listen each hears the other.
 */
export class AliveKey {
  readonly #options: Required<AliveKeyOptions>
  readonly #key: string
  #renewing = false
  #listening: Promise<boolean> | undefined

  constructor(options: AliveKeyOptions) {
    this.#options = { renewEveryMs: 5_000, expiresAfterMs: 15_000, listenMs: 20_000, ...options }
    this.#key = aliveKey(options.lineage)
  }

  /** Renews the key from now on, over whichever connection there is. */
  start(client: () => RedisClient | undefined): void {
    if (this.#renewing) return
    this.#renewing = true
    const { signal, renewEveryMs } = this.#options
    const renew = () => void this.#renew(client())
    const timer = setInterval(renew, renewEveryMs)
    signal.addEventListener('abort', () => clearInterval(timer), { once: true })
    renew()
  }

  /** Renews the key for a while, and resolves with whether no session of another database did. */
  othersAreSilent(client: RedisClient): Promise<boolean> {
    const { owns } = this.#options
    return this.#hearNone(client, owns)
  }

  /**
   * Renews the key for a while, and resolves with whether no other session at all did. A copy of a database has the sessions
   * of the original that began before it was made, and a relay runs for months.
   */
  allAreSilent(client: RedisClient): Promise<boolean> {
    return this.#hearNone(client, async () => false)
  }

  #hearNone(client: RedisClient, ignores: (session: string) => Promise<boolean>): Promise<boolean> {
    this.#listening ??= this.#listen(client, ignores).finally(() => {
      this.#listening = undefined
    })
    return this.#listening
  }

  /** What it sends also keeps the connection in use: a server with a `timeout` would close a silent one each time. */
  async #listen(client: RedisClient, ignores: (session: string) => Promise<boolean>): Promise<boolean> {
    const { session, signal, renewEveryMs, listenMs } = this.#options
    // This may be the last word of a relay that is gone. What is there later was said meanwhile.
    await this.#set(client)
    const until = performance.now() + listenMs
    for (let left = listenMs; left > 0; left = until - performance.now()) {
      await pause(Math.min(left, renewEveryMs), signal)
      signal.throwIfAborted()
      const found = await this.#set(client)
      if (found !== null && found !== session && !(await ignores(found))) return false
    }
    return true
  }

  async #renew(client: RedisClient | undefined): Promise<void> {
    if (client === undefined || this.#listening) return
    try {
      await this.#set(client)
    } catch (error) {
      // A connection that breaks is the publisher's concern.
      if ((error as Error).name === 'ReplyError') this.#options.refused(error as Error)
    }
  }

  /** Renews the key; the session that did so last. */
  #set(client: RedisClient): Promise<string | null> {
    const { session, expiresAfterMs } = this.#options
    return client.set(this.#key, session, 'PX', expiresAfterMs, 'GET')
  }
}
