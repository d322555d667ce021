import pg from 'pg'
import { until } from './until.js'

export interface Credentials {
  user?: string
  password?: string
}

export interface DatabaseOptions {
  /** An ICU collation for the whole database, such as "da-DK": shows where a `collate "C"` is missing. */
  collation?: string
  /** The database that it is a copy of; an empty one by default. */
  template?: string
  /** Copies files and logs no page: less work where the server does not sync. */
  strategy?: 'file_copy'
}

let count = 0

/** By URL: `query` is called again and again until something is so, and a connection costs more than a statement. */
const pools = new Map<string, pg.Pool>()

/** A Postgres server as anybody sees it who has its URL. */
export class PostgresServer {
  readonly #url: string

  constructor(url: string) {
    this.#url = url
  }

  /** The URL for a database, as the superuser (or whoever the given URL names) unless other credentials are given. */
  url(database?: string, credentials: Credentials = {}): string {
    const url = new URL(this.#url)
    if (database !== undefined) url.pathname = `/${encodeURIComponent(database)}`
    if (credentials.user !== undefined) {
      url.username = encodeURIComponent(credentials.user)
      url.password = ''
    }
    if (credentials.password !== undefined) url.password = encodeURIComponent(credentials.password)
    return url.href
  }

  /** A connected client, to be ended by the caller. */
  connect(database?: string, credentials?: Credentials): Promise<pg.Client> {
    return connect(this.url(database, credentials))
  }

  /** One statement, on a connection that no other has at that time. */
  query<Row extends pg.QueryResultRow>(sql: string, values: unknown[] = [], database?: string): Promise<Row[]> {
    return query<Row>(this.url(database), sql, values)
  }

  /** A new empty database. */
  async createDatabase(name?: string, options: DatabaseOptions = {}): Promise<Database> {
    const given = name ?? `test_${process.pid}_${Date.now().toString(36)}_${count++}`
    const { template = 'template0', strategy = 'wal_log', collation } = options
    const locale = collation ? ` locale_provider icu icu_locale ${pg.escapeLiteral(collation)} locale 'C'` : ''
    const source = `template ${pg.escapeIdentifier(template)} strategy ${strategy}`
    await this.query(`create database ${pg.escapeIdentifier(given)} ${source}${locale}`)
    return new Database(this, given)
  }
}

export class Database {
  readonly url: string

  constructor(
    readonly server: PostgresServer,
    readonly name: string,
  ) {
    this.url = server.url(name)
  }

  /** The URL of this database for another role. */
  urlAs(credentials: Credentials): string {
    return this.server.url(this.name, credentials)
  }

  connect(credentials?: Credentials): Promise<pg.Client> {
    return this.server.connect(this.name, credentials)
  }

  query<Row extends pg.QueryResultRow>(sql: string, values: unknown[] = []): Promise<Row[]> {
    return query<Row>(this.url, sql, values)
  }

  /** Ends all sessions, drops the database's replication slots, then the database. */
  async drop(): Promise<void> {
    const client = await this.server.connect()
    try {
      await client.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [this.name])
      await until(
        async () => {
          const drop = 'select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1'
          await client.query(`${drop} and not active`, [this.name])
          const left = await client.query('select from pg_replication_slots where database = $1', [this.name])
          return left.rowCount === 0
        },
        { message: `the replication slots of database ${this.name} to be free to drop` },
      )
      await client.query(`drop database if exists ${pg.escapeIdentifier(this.name)} with (force)`)
    } finally {
      await client.end()
    }
  }
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 })
  // Killing the server is what these tests do; the next query on the client reports it.
  client.on('error', () => {})
  await client.connect()
  return client
}

async function query<Row extends pg.QueryResultRow>(url: string, sql: string, values: unknown[]): Promise<Row[]> {
  return (await poolOf(url).query<Row>(sql, values)).rows
}

function poolOf(url: string): pg.Pool {
  const found = pools.get(url)
  if (found) return found
  const pool = new pg.Pool({
    connectionString: url,
    connectionTimeoutMillis: 10_000,
    // For one who asks every 50 ms, and not for a test that expects no connection but its own.
    idleTimeoutMillis: 200,
    max: 50,
    allowExitOnIdle: true,
  })
  // As above: the next statement has a new connection.
  pool.on('error', () => {})
  pools.set(url, pool)
  return pool
}
