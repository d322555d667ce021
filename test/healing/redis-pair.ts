import type { Redis as Client } from 'ioredis'
import { freePort, redisClient, startRedis, until } from '../../testkit/services/index.js'
import { TcpProxy } from '../../testkit/services/proxy.js'
import type { Redis } from '../../testkit/services/redis.js'

/** How Redis keeps its data; a restart with the data of before loses what came since. */
export type Persistence = 'aof' | 'rdb'

/** Two servers under one address, as a virtual IP gives it: one is in use, the other follows it, or was in use before. */
export class RedisPair {
  /** Through the address; it connects again by itself. */
  readonly client: Client
  readonly url: string
  readonly #persistence: Persistence
  #active: Redis
  #other: Redis
  #proxy: TcpProxy
  #wasOtherInUse = false
  /** Data of an earlier time, of each server. */
  readonly #copies = new Map<Redis, string>()

  private constructor(persistence: Persistence, active: Redis, other: Redis, proxy: TcpProxy) {
    this.#persistence = persistence
    this.#active = active
    this.#other = other
    this.#proxy = proxy
    this.url = proxy.url(active.url)
    this.client = redisClient(this.url, { retryStrategy: () => 50, maxRetriesPerRequest: null })
  }

  static async start(persistence: Persistence): Promise<RedisPair> {
    const settings: Record<string, string> = persistence === 'aof' ? { appendonly: 'yes' } : {}
    const [active, other] = await Promise.all([startRedis({ settings }), startRedis({ settings })])
    const proxy = new TcpProxy(active.port, await freePort())
    await proxy.accept()
    return new RedisPair(persistence, active, other, proxy)
  }

  /** Has the other server been in use, and does it know nothing newer? */
  get hasOld(): boolean {
    return this.#wasOtherInUse
  }

  /** From here on the other server has all that there is up to now, and nothing that comes. */
  async forkOther(): Promise<void> {
    const marker = `marker ${performance.now()}`
    await this.#other.command('REPLICAOF', '127.0.0.1', String(this.#active.port))
    await this.#active.command('SET', 'healing-marker', marker)
    await until(async () => (await this.#other.command('GET', 'healing-marker')) === marker, {
      message: 'the replica to follow',
    })
    await this.#other.command('REPLICAOF', 'NO', 'ONE')
  }

  /** The address leads to the other server. */
  async swap(): Promise<void> {
    const { port } = this.#proxy
    await this.#proxy.close()
    ;[this.#active, this.#other] = [this.#other, this.#active]
    this.#proxy = new TcpProxy(this.#active.port, port)
    await this.#proxy.accept()
    this.#wasOtherInUse = true
  }

  /** Remembers what the server in use holds now. */
  async remember(): Promise<void> {
    if (this.#persistence === 'rdb') await this.#active.command('SAVE')
    this.#copies.set(this.#active, await this.#active.cloneData())
  }

  get hasCopy(): boolean {
    return this.#copies.has(this.#active)
  }

  /** Ends the server in use, and starts it with what was remembered. False: nothing was. */
  async rollBack(): Promise<boolean> {
    const copy = this.#copies.get(this.#active)
    if (copy === undefined) return false
    await this.#active.restore(copy)
    return true
  }

  async remove(): Promise<void> {
    this.client.disconnect()
    await this.#proxy.close()
    await this.#active.remove()
    await this.#other.remove()
  }
}
