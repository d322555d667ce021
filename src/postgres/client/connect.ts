import pg from 'pg'
import { ExitCode, OutriderError } from '../../base/failure.js'
import { readSecret } from '../../base/secret.js'
import { type PostgresUrl, parsePostgresUrl } from '../../config/postgres-url.js'
import type { PostgresConfig } from '../../config/schema.js'
import { describeTlsError, readTls } from '../../config/tls.js'

/**
 * What text output depends on is pinned, so that a server's or a role's defaults change no byte of an event. So is the isolation
 * level: a serializable, read-only and deferrable transaction waits for every serializable writer that is open. A table whose
 * rows a policy hides is an error: WAL has all of them, so whatever compares the table with it would count them as missing.
 */
const PINNED =
  '-c DateStyle=ISO -c TimeZone=UTC -c IntervalStyle=postgres -c extra_float_digits=3 -c bytea_output=hex ' +
  '-c default_transaction_isolation=read\\ committed -c default_transaction_deferrable=off -c row_security=off'

/** Long enough not to wake idle links, short enough to notice a vanished peer before a TCP retransmission gives up. */
const KEEPALIVE_AFTER_MS = 10_000

/** One simple statement, for servers that know the setting (PostgreSQL 17 and later) and for those that do not. */
export const NO_TRANSACTION_TIMEOUT =
  "select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'"

/** Options for a `pg` client, also for one that replicates. The password is asked for when the server wants it. */
export async function postgresOptions(config: PostgresConfig, applicationName: string): Promise<pg.ClientConfig> {
  const url = parsePostgresUrl(config.url)
  const tls = tlsOf(config, url)
  const { password } = config
  return {
    host: url.host,
    port: url.port,
    database: url.database,
    ...(url.user === undefined ? {} : { user: url.user }),
    ...(password !== undefined
      ? { password: () => readSecret(password) }
      : url.password === undefined
        ? {}
        : { password: url.password }),
    // Never left undefined: pg would look at PGSSLMODE, which can turn the check of certificates off.
    ssl: tls ? await readTls(tls) : false,
    ...(url.sslNegotiation === undefined ? {} : { sslnegotiation: url.sslNegotiation }),
    application_name: applicationName,
    client_encoding: 'UTF8',
    options: url.options === undefined ? PINNED : `${url.options} ${PINNED}`,
    connectionTimeoutMillis: config.connectTimeout,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_AFTER_MS,
  }
}

/**
 * Connects. The client has an `error` listener, so that a connection lost while idle does not end the process; whoever
 * wants to know adds another. With `queryTimeout`, in milliseconds, a statement without an answer rejects. Throws an OutriderError with the error of `pg` as its cause, which carries the SQLSTATE as `code`.
 */
export async function connectPostgres(
  config: PostgresConfig,
  applicationName: string,
  queryTimeout?: number,
): Promise<pg.Client> {
  const options = await postgresOptions(config, applicationName)
  const client = new pg.Client({ ...options, ...(queryTimeout === undefined ? {} : { query_timeout: queryTimeout }) })
  client.on('error', () => {})
  try {
    await client.connect()
  } catch (error) {
    client.end().catch(() => {})
    throw connectFailure(error, config)
  }
  return client
}

/** Takes leave; a server that does not answer is not waited for. */
export async function endPostgres(client: pg.Client): Promise<void> {
  const gone = setTimeout(() => client.connection.stream.destroy(), 1_000)
  await client.end().catch(() => {})
  clearTimeout(gone)
}

function tlsOf(config: PostgresConfig, url: PostgresUrl): PostgresConfig['tls'] {
  if (!config.tls && !url.tls) return undefined
  return {
    ...(url.sslRootCert === undefined ? {} : { ca: url.sslRootCert }),
    ...(url.sslCert === undefined ? {} : { cert: url.sslCert }),
    ...(url.sslKey === undefined ? {} : { key: url.sslKey }),
    ...config.tls,
  }
}

/** One line for a person from whatever `pg` threw while connecting. Also used for the replication connection. */
export function connectFailure(error: unknown, config: PostgresConfig): OutriderError {
  if (error instanceof OutriderError) return error
  const url = parsePostgresUrl(config.url)
  const place = url.host.startsWith('/') ? `Postgres at ${url.host}` : `Postgres at ${url.host}:${url.port}`
  const { code, message } = error as { code?: string; message: string }
  const [exitCode, text] = explain(code, message, url, config.connectTimeout)
  return new OutriderError(`${place} ${text}`, { exitCode, cause: error })
}

function explain(code: string | undefined, message: string, url: PostgresUrl, timeout: number): [ExitCode, string] {
  const { failed, unreachable } = ExitCode
  const user = url.user === undefined ? 'the role' : `role "${url.user}"`
  const tls = describeTlsError(code)
  if (tls !== undefined) return [unreachable, `was reached, but ${tls}.`]
  switch (code) {
    case '28P01':
      return [failed, `refused the password of ${user}. Check the password, or the file it is read from.`]
    case '28000':
      return [
        failed,
        `did not let ${user} in: ${message}. Check that the role exists, may log in, and that pg_hba.conf allows it.`,
      ]
    case '3D000':
      return [failed, `has no database "${url.database}". Check the name at the end of the URL, or create it.`]
    case '42501':
      return [
        failed,
        `does not let ${user} connect: ${message}. Grant CONNECT on the database, or REPLICATION to the role.`,
      ]
    case '53300':
      if (/max_wal_senders"? \(currently 0\)/.test(message)) {
        return [
          unreachable,
          `allows no WAL sender (${message}), as wal_level = minimal requires. Set wal_level = logical (replica is enough from PostgreSQL 19 on) and max_wal_senders to 10 or more, then restart Postgres.`,
        ]
      }
      return [
        unreachable,
        `has no connection left (${message}). Raise max_connections or max_wal_senders, or close others.`,
      ]
    case '57P03':
      return [unreachable, `is not accepting connections yet (${message}). Wait until it has started.`]
    case '08P01':
      return [
        failed,
        `refused the way of connecting: ${message}. A pooler may be in between; Outrider needs a direct connection.`,
      ]
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return [unreachable, `was not found: the name does not resolve (${code}). Check the host in the URL.`]
    case 'ECONNREFUSED':
      return [
        unreachable,
        'refused the connection (ECONNREFUSED). Check that it is running, and the host and port in the URL.',
      ]
  }
  if (/password must be a (non-empty )?string/.test(message)) {
    return [failed, `requires a password for ${user}. Set OUTRIDER_POSTGRES_PASSWORD, or put it into the URL.`]
  }
  if (message.startsWith('SASL')) {
    return [
      failed,
      `and this program could not prove to each other that they know the password of ${user} (${message}).`,
    ]
  }
  if (message === 'timeout expired' || code === 'ETIMEDOUT') {
    return [
      unreachable,
      `did not answer within ${timeout} ms. Check the host and port in the URL, and firewalls in between.`,
    ]
  }
  if (message === 'The server does not support SSL connections') {
    return [
      unreachable,
      'was reached, but does not offer TLS. Turn ssl on in its configuration, or leave sslmode out of the URL.',
    ]
  }
  if (code === undefined || /^E[A-Z]+$/.test(code)) {
    return [unreachable, `closed the connection (${code ?? message}). Check that host and port are those of Postgres.`]
  }
  return [failed, `refused the connection: ${message} (${code}).`]
}
