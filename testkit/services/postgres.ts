import { execFile } from 'node:child_process'
import { appendFileSync, chownSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { serviceAccount } from './account.js'
import { copyTree, scratch } from './folder.js'
import { freePort } from './port.js'
import { chosenVersion, type PostgresVersion, postgresHost } from './postgres-binaries.js'
import { type Credentials, type Database, type DatabaseOptions, PostgresServer } from './postgres-server.js'
import type { Host, Launch } from './process.js'
import { Service } from './service.js'
import { until } from './until.js'

export interface PostgresOptions {
  /** Lines of postgresql.conf, over the defaults below. */
  settings?: Record<string, string>
  /** 18, or what OUTRIDER_TEST_POSTGRES says. */
  version?: PostgresVersion
  /** How TCP connections prove who they are; `trust` by default. */
  auth?: 'trust' | 'scram-sha-256'
  /** Lines of pg_hba.conf that are read before the usual ones. */
  hba?: string[]
  /** Starts from a copy of these data, as given by `cloneData()`: the same system identifier, slots and all. */
  dataFrom?: string
  /** Runs initdb for this server alone. Otherwise the servers of a process share one system identifier, as clones do. */
  ownIdentifier?: boolean
  /** Starts as a physical standby of this one, on its data; `promote()` ends that. */
  standbyOf?: Postgres
  /** False where nothing is meant to outlive the server: it does not wait for disks, and copies new databases as files. */
  syncs?: boolean
  port?: number
}

export type StopMode = 'smart' | 'fast' | 'immediate'

const superuser = { user: 'postgres', password: 'outrider' }

const defaults: Record<string, string> = {
  wal_level: 'logical',
  max_wal_senders: '40',
  max_replication_slots: '40',
  max_connections: '200',
  shared_buffers: '32MB',
  max_wal_size: '256MB',
  min_wal_size: '32MB',
  // In the data folder rather than in /dev/shm, where a killed server would leave it behind.
  dynamic_shared_memory_type: 'mmap',
  log_line_prefix: '%m [%p] ',
  log_checkpoints: 'off',
}

/** Of each version, the data of a server that was never started. */
const emptyData = new Map<PostgresVersion, Promise<string>>()

/** Starts a Postgres of its own. Call `remove()` when done. */
export async function startPostgres(options: PostgresOptions = {}): Promise<Postgres> {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL) {
    throw new Error(
      'Expected to start a Postgres, but OUTRIDER_TEST_POSTGRES_URL says to use the given one. ' +
        'A test that controls the process calls needsProcess(context) first.',
    )
  }
  const host = await postgresHost(options.version ?? chosenVersion())
  const postgres = new Postgres(host, options.port ?? (await freePort()), options)
  try {
    await postgres.initialize()
    await postgres.start()
  } catch (error) {
    await postgres.remove()
    throw error
  }
  return postgres
}

export class Postgres extends Service {
  protected readonly endSignal = 'SIGQUIT'
  readonly #server: PostgresServer
  readonly #options: PostgresOptions
  readonly #settings: Record<string, string>

  constructor(host: Host, port: number, options: PostgresOptions) {
    super('postgres', host, port)
    this.#options = options
    this.#settings = { ...defaults, ...(options.syncs === false && { fsync: 'off' }), ...options.settings }
    const password = options.auth === 'scram-sha-256' ? `:${superuser.password}` : ''
    this.#server = new PostgresServer(`postgres://${superuser.user}${password}@127.0.0.1:${port}/postgres`)
  }

  /** Makes the data folder; called once, before the first start. */
  async initialize(): Promise<void> {
    const { dataFrom, standbyOf, ownIdentifier, auth = 'trust', hba = [] } = this.#options
    if (ownIdentifier) await initdb(this.host, this.folder)
    else await copyTree(dataFrom ?? (await standbyOf?.cloneData()) ?? (await this.#emptyData()), this.dataDir)
    if (standbyOf) {
      this.#settings.primary_conninfo = `host=${this.host.peer} port=${standbyOf.port} user=${superuser.user} password=${superuser.password}`
      this.#write('standby.signal', '')
    }
    const rules = [...hba, 'local all all trust', `host all all all ${auth}`, `host replication all all ${auth}`]
    this.#write('pg_hba.conf', `${rules.join('\n')}\n`)
    // Before the file that ALTER SYSTEM writes, so that set() prevails.
    appendFileSync(join(this.dataDir, 'postgresql.conf'), "\ninclude_if_exists = 'outrider.conf'\n")
  }

  url(database?: string, credentials?: Credentials): string {
    return this.#server.url(database, credentials)
  }

  connect(database?: string, credentials?: Credentials): Promise<pg.Client> {
    return this.#server.connect(database, credentials)
  }

  query<Row extends pg.QueryResultRow>(sql: string, values?: unknown[], database?: string): Promise<Row[]> {
    return this.#server.query<Row>(sql, values, database)
  }

  createDatabase(name?: string, options?: DatabaseOptions): Promise<Database> {
    const unsynced: DatabaseOptions = this.#options.syncs === false ? { strategy: 'file_copy' } : {}
    return this.#server.createDatabase(name, { ...unsynced, ...options })
  }

  /** What only a restart changes: these settings hold from now on and through later restarts. */
  override async start(settings: Record<string, string> = {}): Promise<void> {
    Object.assign(this.#settings, settings)
    await super.start()
  }

  /** Shuts it down as `pg_ctl stop -m` does; resolves when it has ended. */
  async stop(mode: StopMode = 'fast'): Promise<void> {
    const ended = this.ended()
    await this.kill(({ smart: 'SIGTERM', fast: 'SIGINT', immediate: 'SIGQUIT' } as const)[mode])
    await ended
  }

  /** ALTER SYSTEM, then a reload; null resets. Resolves once new sessions see it, and running ones are told. */
  async set(settings: Record<string, string | null>): Promise<void> {
    const client = await this.connect()
    try {
      for (const [name, value] of Object.entries(settings)) {
        const setting = value === null ? `reset ${name}` : `set ${name} = ${pg.escapeLiteral(value)}`
        await client.query(`alter system ${setting}`)
      }
      const before = await client.query('select pg_conf_load_time() as time, pg_reload_conf()')
      await until(
        async () => {
          const [now] = await this.query<{ time: Date }>('select pg_conf_load_time() as time')
          return now!.time > before.rows[0].time
        },
        { message: 'Postgres to read its changed settings' },
      )
      // Whether a commit waits for a standby is what the checkpointer has read, which may be later.
      if ('synchronous_standby_names' in settings) await client.query('checkpoint')
    } finally {
      await client.end()
    }
  }

  /** Saves slots and pages first, so that the copy holds what the server knows; a frozen one is copied as it is. */
  override async cloneData(): Promise<string> {
    if (this.isRunning && !this.isFrozen) await this.query('checkpoint')
    const copy = await super.cloneData()
    // Says that the data are in use, and by whom.
    rmSync(join(copy, 'postmaster.pid'), { force: true })
    return copy
  }

  /** Makes a standby the primary of a new timeline. */
  async promote(): Promise<void> {
    await this.query('select pg_promote(true)')
  }

  override async remove(): Promise<void> {
    await this.end()
    await this.#releaseMemory()
    await super.remove()
  }

  protected prepare(): Launch {
    const lines = Object.entries(this.#settings).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`)
    this.#write('outrider.conf', lines.join(''))
    const socket = this.host.isLocal ? this.dataDir : '/tmp'
    const listen = `listen_addresses=${this.host.listens}`
    const args = ['-D', this.dataDir, '-p', String(this.port), '-k', socket, '-c', listen]
    return { program: 'postgres', args, folder: this.folder, log: this.log, port: this.port, kind: 'postgres' }
  }

  protected async answers(): Promise<boolean> {
    try {
      const client = await this.connect()
      await client.end()
      return true
    } catch (error) {
      // Any answer but "starting up" is one: settings may well refuse this very connection.
      return error instanceof pg.DatabaseError && error.code !== '57P03'
    }
  }

  /** What initdb makes, made once: that takes longer than all else that a start does. */
  #emptyData(): Promise<string> {
    const version = this.#options.version ?? chosenVersion()
    const made = emptyData.get(version) ?? initdb(this.host, scratch('initdb'))
    emptyData.set(version, made)
    return made
  }

  #write(name: string, text: string): void {
    const file = join(this.dataDir, name)
    writeFileSync(file, text)
    const account = serviceAccount()
    if (account) chownSync(file, account.uid, account.gid)
  }

  /** A killed postmaster leaves its System V segment, which guards the data folder; the system has only so many. */
  async #releaseMemory(): Promise<void> {
    const file = join(this.dataDir, 'postmaster.pid')
    if (!this.host.isLocal || !existsSync(file)) return
    const [, segment] = (readFileSync(file, 'utf8').split('\n')[6] ?? '').trim().split(/\s+/)
    rmSync(file)
    if (segment) await promisify(execFile)('ipcrm', ['-m', segment]).catch(() => {})
  }
}

/** Makes the folder `data` in this one. */
async function initdb(host: Host, folder: string): Promise<string> {
  const data = join(folder, 'data')
  const passwords = join(folder, 'password')
  writeFileSync(passwords, superuser.password)
  // C, so that no locale of the machine matters; see DatabaseOptions for a database that is not C.
  const account = ['-U', superuser.user, '--pwfile', passwords, '-A', 'trust']
  const args = ['-D', data, ...account, '-E', 'UTF8', '--locale=C', '-N']
  await host.run({ program: 'initdb', args, folder, log: join(folder, 'log'), kind: 'postgres' })
  return data
}
