import { execFile } from 'node:child_process'
import { statSync } from 'node:fs'
import { delimiter } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type pg from 'pg'
import { createTruth } from '../../testkit/oracle/truth.js'
import { createSubjects } from '../../testkit/oracle/writer.js'
import { type Database, type Postgres, type Redis, startPostgres, startRedis } from '../../testkit/services/index.js'
import { chosenVersion, postgresHost } from '../../testkit/services/postgres-binaries.js'
import { type Host, LocalHost } from '../../testkit/services/process.js'
import { redisHost } from '../../testkit/services/redis-binaries.js'
import { createEffects } from './effects.js'
import type { Terminal } from './terminal.js'
import { SUBJECTS } from './writer.js'

export const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

/** A Postgres, a Redis, and a database that is set up for Outrider. */
export class Stage {
  /** With redis-cli in it, where Redis was unpacked and not installed. */
  redisFolder: { bin: string; env: Record<string, string> } | undefined
  #postgres: Postgres | undefined
  #redis: Redis | undefined
  #database: Database | undefined

  get database(): Database {
    return this.#database as Database
  }

  get redis(): Redis {
    return this.#redis as Redis
  }

  /** What a relay, or any command of Outrider, is told. */
  relayEnv(): Record<string, string> {
    return { OUTRIDER_POSTGRES_URL: this.database.urlAs({ user: 'demo_relay' }), OUTRIDER_REDIS_URL: this.redis.url }
  }

  /** What a worker is told. */
  workerEnv(): Record<string, string> {
    return { OUTRIDER_POSTGRES_URL: this.database.urlAs({ user: 'demo_worker' }), OUTRIDER_REDIS_URL: this.redis.url }
  }

  async startPostgres(terminal: Terminal): Promise<void> {
    const hint = 'the first start unpacks it into a cache folder'
    await terminal.step('Postgres from npm', hint, async () => {
      const began = Date.now()
      const host = await postgresHost(chosenVersion())
      this.#postgres = await startPostgres()
      this.#database = await this.#postgres.createDatabase('demo')
      const [row] = await this.#postgres.query<{ server_version: string }>('show server_version')
      const from = host.isLocal ? 'npm' : 'Docker'
      return [undefined, `Postgres ${row?.server_version} from ${from}, wal_level = logical`, unpacked(host, began)]
    })
  }

  async startRedis(terminal: Terminal): Promise<void> {
    const hint = "from PATH, Docker or Debian's package, which the first start unpacks into a cache"
    await terminal.step('Redis', hint, async () => {
      const began = Date.now()
      const host = await redisHost()
      this.#redis = await startRedis({ settings: { appendonly: 'yes' } })
      const client = this.#redis.client()
      const info = await client.info('server').finally(() => client.disconnect())
      const version = /^redis_version:(\S+)/m.exec(info)?.[1]
      const from = origin(host)
      if (from === "Debian's package" && host instanceof LocalHost) this.redisFolder = { bin: host.bin, env: host.env }
      return [undefined, `Redis ${version} from ${from}, append-only file on`, unpacked(host, began)]
    })
  }

  /** As anybody would: by the command line; then a role for each side, with no more rights than it needs. */
  async setUp(terminal: Terminal): Promise<void> {
    await terminal.step('outrider setup', '', async () => {
      const env = { ...process.env, OUTRIDER_POSTGRES_URL: this.database.url, OUTRIDER_REDIS_URL: this.redis.url }
      await promisify(execFile)(process.execPath, [MAIN, 'setup'], { env }).catch((error: { stderr?: string }) => {
        throw new Error(`Expected \`outrider setup\` to succeed, it said:\n${error.stderr?.trim()}`, { cause: error })
      })
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

function origin(host: Host): string {
  if (!(host instanceof LocalHost)) return 'Docker'
  return (process.env.PATH ?? '').split(delimiter).includes(host.bin) ? 'the PATH' : "Debian's package"
}

/** Said once, so that nobody wonders where they come from: the folder that programs were just unpacked into. */
function unpacked(host: Host, began: number): string {
  if (!(host instanceof LocalHost)) return ''
  const folder = host.bin.replace(/(\/usr)?\/bin$/, '')
  // A folder's ctime is when it was moved to its place.
  return statSync(folder).ctimeMs >= began ? `unpacked into ${folder}, kept for the next start` : ''
}
