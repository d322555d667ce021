import { readFileSync } from 'node:fs'
import type { Redis as RedisClient } from 'ioredis'
import type pg from 'pg'
import { outrider } from '../../testkit/outrider.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { scratch } from '../../testkit/services/folder.js'
import {
  type Database,
  type Postgres,
  type Redis,
  startPostgres,
  startRedis,
  until,
} from '../../testkit/services/index.js'
import type { Account } from './account.js'
import { WorkerProcess } from './worker-process.js'

/** A Postgres, a Redis, a database that is set up for Outrider, a relay between them, and workers. */
export class ExampleEnv {
  readonly #account: Account
  #postgres: Postgres | undefined
  #redisServer: Redis | undefined
  #database: Database | undefined
  #owner: pg.Client | undefined
  #redis: RedisClient | undefined
  #relay: RelayProcess | undefined
  readonly #clients: pg.Client[] = []
  readonly #workers: WorkerProcess[] = []

  constructor(account: Account) {
    this.#account = account
  }

  /** The owner of the database: for migrations, and to check what the services did. */
  get owner(): pg.Client {
    return this.#owner as pg.Client
  }

  get redis(): RedisClient {
    return this.#redis as RedisClient
  }

  /**
   * Takes the steps that a user takes: starts the servers, runs `outrider setup`, creates the tables and roles of the
   * example, starts `outrider relay`.
   */
  async start(setup: URL): Promise<void> {
    const [postgres, redis] = await Promise.all([startPostgres(), startRedis({ settings: { appendonly: 'yes' } })])
    this.#postgres = postgres
    this.#redisServer = redis
    this.#redis = redis.client()
    this.#database = await postgres.createDatabase('example')
    await this.outrider('setup')
    this.#owner = await this.#database.connect()
    // The roles have no passwords: these servers run on this machine only, for some seconds. For your own servers see setup.sql.
    await this.owner.query('create role relay login replication in role outrider_relay')
    await this.owner.query(readFileSync(setup, 'utf8'))
    this.#relay = await RelayProcess.start({
      OUTRIDER_POSTGRES_URL: this.#urlAs('relay'),
      OUTRIDER_REDIS_URL: redis.url,
    })
    await this.#relay.streaming()
    this.#account.say('Postgres, Redis and a relay run; outrider setup has run.')
  }

  /** Runs a command of Outrider as the owner of the database; what it prints. */
  outrider(...args: string[]): Promise<string> {
    return outrider(args, {
      OUTRIDER_POSTGRES_URL: (this.#database as Database).url,
      OUTRIDER_REDIS_URL: (this.#redisServer as Redis).url,
    })
  }

  /** An empty folder, which is removed when the example ends, even after an error. */
  folder(name: string): string {
    return scratch(name)
  }

  /** A connection as the role of a service. */
  async connect(role: string): Promise<pg.Client> {
    const client = await (this.#database as Database).connect({ user: role })
    this.#clients.push(client)
    return client
  }

  /** Starts a worker under this name; resolves once it reads events. What it says becomes part of the account. */
  async worker(name: string, file: URL, role: string, env: Record<string, string> = {}): Promise<WorkerProcess> {
    const variables = { DATABASE_URL: this.#urlAs(role), REDIS_URL: (this.#redisServer as Redis).url, ...env }
    const worker = await WorkerProcess.start(name, file, variables, (line) => this.#account.say(`${name} ${line}`))
    this.#workers.push(worker)
    return worker
  }

  /** Waits until all committed events are in the stream, and these groups have processed them. */
  async drained(stream: string, ...groups: string[]): Promise<void> {
    const published = async () => {
      const { rows } = await this.owner.query('select id from outrider.outbox where stream = $1', [stream])
      return rows.map(({ id }) => id as string)
    }
    await until(
      async () => {
        if (!(await this.#areDone(stream, groups))) return false
        const ids = await published()
        const entries = await this.redis.xrange(stream, '-', '+')
        const there = new Set(entries.map(([, fields]) => fields[fields.indexOf('id') + 1]))
        if (!ids.every((id) => there.has(id)) || !(await this.#areDone(stream, groups))) return false
        // A handler may have published meanwhile.
        return (await published()).length === ids.length
      },
      { message: () => `${groups.join(' and ')} to have done all of ${stream}` },
    )
  }

  /** Whether these groups have received the last entry and have acknowledged all entries that they received. */
  async #areDone(stream: string, groups: readonly string[]): Promise<boolean> {
    const last = attributeOf(await this.redis.xinfo('STREAM', stream), 'last-generated-id')
    const infos = (await this.redis.xinfo('GROUPS', stream)) as unknown[][]
    return groups.every((group) => {
      const info = infos.find((found) => attributeOf(found, 'name') === group)
      return attributeOf(info, 'pending') === 0 && attributeOf(info, 'last-delivered-id') === last
    })
  }

  #urlAs(role: string): string {
    return (this.#database as Database).urlAs({ user: role })
  }

  /** The ends of all logs. */
  tails(): string {
    return [...this.#workers.map((worker) => worker.tail()), this.#relay?.tail() ?? ''].join('\n')
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.isRunning && worker.stop()))
    await Promise.all([...this.#clients, ...(this.#owner ? [this.#owner] : [])].map((client) => client.end()))
    if (this.#relay?.isRunning) await this.#relay.stop()
    this.#redis?.disconnect()
    await Promise.all([this.#postgres?.remove(), this.#redisServer?.remove()])
  }
}

/** The value of a name in a reply of XINFO, which is a list of names and values in turn. */
const attributeOf = (info: unknown, name: string): unknown => {
  const values = (info ?? []) as unknown[]
  return values[values.indexOf(name) + 1]
}
