import type pg from 'pg'
import { createTruth } from '../../testkit/oracle/truth.js'
import { createSubjects } from '../../testkit/oracle/writer.js'
import { outrider } from '../../testkit/outrider.js'
import { type Database, type Postgres, type Redis, startPostgres, startRedis } from '../../testkit/services/index.js'
import type { Host, Origin } from '../../testkit/services/process.js'
import { createEffects } from './effects.js'
import type { Terminal } from './terminal.js'
import { SUBJECTS } from './writer.js'

/** A Postgres, a Redis, and a database that is set up for Outrider. */
export class DemoEnv {
  #postgres: Postgres | undefined
  #redis: Redis | undefined
  #database: Database | undefined

  get database(): Database {
    return this.#database as Database
  }

  get redis(): Redis {
    return this.#redis as Redis
  }

  /** Variables of a relay, and of any command that its role may run. */
  relayEnv(): Record<string, string> {
    return { OUTRIDER_POSTGRES_URL: this.database.urlAs({ user: 'demo_relay' }), OUTRIDER_REDIS_URL: this.redis.url }
  }

  /** Variables of a worker. */
  workerEnv(): Record<string, string> {
    return { OUTRIDER_POSTGRES_URL: this.database.urlAs({ user: 'demo_worker' }), OUTRIDER_REDIS_URL: this.redis.url }
  }

  async startPostgres(terminal: Terminal): Promise<void> {
    const hint = 'the first start unpacks it into a cache folder'
    await terminal.step('Postgres from npm', hint, async () => {
      this.#postgres = await startPostgres()
      this.#database = await this.#postgres.createDatabase('demo')
      const [row] = await this.#postgres.query<{ server_version: string }>('show server_version')
      const { host } = this.#postgres
      const text = `Postgres ${row?.server_version} from ${ORIGINS[host.origin]}, wal_level = logical`
      return [undefined, text, unpackedNote(host)]
    })
  }

  async startRedis(terminal: Terminal): Promise<void> {
    const hint = "from PATH, Docker or Debian's package, which the first start unpacks into a cache"
    await terminal.step('Redis', hint, async () => {
      this.#redis = await startRedis({ settings: { appendonly: 'yes' } })
      const client = this.#redis.client()
      const info = await client.info('server').finally(() => client.disconnect())
      const { host } = this.#redis
      return [undefined, `${productOf(info)} from ${ORIGINS[host.origin]}, append-only file on`, unpackedNote(host)]
    })
  }

  /** By the command line, as a user does; then a role for each side, with no more privileges than it needs. */
  async setUp(terminal: Terminal): Promise<void> {
    await terminal.step('outrider setup', '', async () => {
      await outrider(['setup'], { OUTRIDER_POSTGRES_URL: this.database.url, OUTRIDER_REDIS_URL: this.redis.url })
      const client = await this.database.connect()
      try {
        await createTruth(client)
        await createSubjects(client, SUBJECTS)
        await createEffects(client)
        await client.query(`
          create role demo_relay login replication in role outrider_relay;
          create role demo_writer login in role outrider_writer;
          create role demo_worker login in role outrider_consumer;
          grant insert on truth to demo_writer;
          grant select, update on subject to demo_writer;
          grant insert on effect to demo_worker;
        `)
      } finally {
        await client.end()
      }
      return [undefined, 'outrider setup: schema, publication, replication slot']
    })
  }

  connectWriter(): Promise<pg.Client> {
    return this.database.connect({ user: 'demo_writer' })
  }

  async close(): Promise<void> {
    await Promise.all([this.#postgres?.remove(), this.#redis?.remove()])
  }
}

const ORIGINS: Record<Origin, string> = {
  PATH: 'the PATH',
  npm: 'npm',
  'Debian package': "Debian's package",
  PyPI: 'PyPI',
  Docker: 'Docker',
  'built here': 'here',
}

/** Valkey says a version of Redis, too: the one that it is compatible with. */
function productOf(info: string): string {
  const [, name, version] = /^(valkey)_version:(\S+)/m.exec(info) ?? /^(redis)_version:(\S+)/m.exec(info) ?? []
  return `${name === 'valkey' ? 'Valkey' : 'Redis'} ${version}`
}

/** Printed once, at the start that has filled the cache. */
function unpackedNote({ unpackedInto }: Host): string {
  return unpackedInto ? `unpacked into ${unpackedInto}, kept for the next start` : ''
}
