import { pause } from '../../backoff.js'
import { aliveKey } from '../../event/names.js'
import type { RedisClient } from '../../redis/connect.js'

export interface AliveKeyOptions {
  lineage: string
  session: string
  /** Aborted when the session ends. */
  signal: AbortSignal
  /** Redis refused to set the key. */
  refused(error: Error): void
  renewEveryMs?: number
  expiresAfterMs?: number
  /** Must be longer than `expiresAfterMs`: then a key that is still there has been renewed. */
  listenMs?: number
}

/**
 * A key that the leader of a lineage renews and that expires without it. A database that was promoted cannot tell its own
 * relay before the failover from the relay of a database that still runs; only the second one renews the key.
 */
export class AliveKey {
  readonly #options: Required<AliveKeyOptions>
  readonly #key: string
  #listening: Promise<boolean> | undefined

  constructor(options: AliveKeyOptions) {
    this.#options = { renewEveryMs: 5_000, expiresAfterMs: 15_000, listenMs: 20_000, ...options }
    this.#key = aliveKey(options.lineage)
  }

  /** Renews the key from now on, over whichever connection there is. */
  start(client: () => RedisClient | undefined): void {
    const { signal, renewEveryMs } = this.#options
    const renew = () => void this.#renew(client())
    const timer = setInterval(renew, renewEveryMs)
    signal.addEventListener('abort', () => clearInterval(timer), { once: true })
    renew()
  }

  /** Renews nothing for a while, and resolves with whether no other session did; the key is this session's then. */
  othersAreSilent(client: RedisClient): Promise<boolean> {
    this.#listening ??= this.#listen(client).finally(() => {
      this.#listening = undefined
    })
    return this.#listening
  }

  async #listen(client: RedisClient): Promise<boolean> {
    const { session, signal, renewEveryMs, expiresAfterMs, listenMs } = this.#options
    const until = performance.now() + listenMs
    for (let left = listenMs; left > 0; left = until - performance.now()) {
      await pause(Math.min(left, renewEveryMs), signal)
      signal.throwIfAborted()
      // A server with a `timeout` would close a silent connection each time; a lost one is not listened on to the end.
      await client.ping().catch((error: Error) => {
        // A PING that is not permitted was answered, too.
        if (error.name !== 'ReplyError') throw error
      })
    }
    return (await client.set(this.#key, session, 'PX', expiresAfterMs, 'NX')) === 'OK'
  }

  async #renew(client: RedisClient | undefined): Promise<void> {
    const { session, expiresAfterMs, refused } = this.#options
    if (client === undefined || this.#listening) return
    try {
      await client.set(this.#key, session, 'PX', expiresAfterMs)
    } catch (error) {
      // A connection that breaks is the publisher's concern.
      if ((error as Error).name === 'ReplyError') refused(error as Error)
    }
  }
}
