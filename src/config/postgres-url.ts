/** The parts of a Postgres URL that Outrider heeds; anything else in it is for other programs. */
export interface PostgresUrl {
  /** A name, an address, or the folder of a Unix socket. */
  host: string
  port: number
  user?: string
  password?: string
  database: string
  /** `options` as Postgres takes them at startup: `-c search_path=…`. */
  options?: string
  /** False: plain text. True: TLS with the certificate and the name checked, whatever `sslmode` asked less for. */
  tls: boolean
  sslMode?: string
  sslNegotiation?: 'postgres' | 'direct'
  sslRootCert?: string
  sslCert?: string
  sslKey?: string
}

const SSL_MODES = ['disable', 'require', 'verify-ca', 'verify-full']

/**
 * Reads `postgres://user:password@host:port/database?sslmode=…`. Throws a TypeError whose message says what was expected
 * and holds nothing of the URL. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
 */
export function parsePostgresUrl(text: string): PostgresUrl {
  if (!/^postgres(ql)?:\/\//.test(text)) throw new TypeError('a URL that starts with postgres:// or postgresql://')
  if (/^[^?]*@[^/?]*,/.test(text)) throw new TypeError('a URL with one host, because a slot lives on one server')
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw new TypeError(
      'a URL such as postgres://user:password@host:5432/database, with special characters in the password percent-encoded',
    )
  }
  const query = url.searchParams
  const host = query.get('host') ?? decoded(url.hostname.replace(/^\[(.+)\]$/, '$1'))
  if (host === '') throw new TypeError('a URL that names the host')
  const port = Number(query.get('port') ?? (url.port || 5432))
  if (!Number.isInteger(port) || port < 1 || port > 65535) throw new TypeError('a URL with a port from 1 to 65535')
  const database = decoded(url.pathname.slice(1)) || (query.get('dbname') ?? '')
  if (database === '') throw new TypeError('a URL that names the database: postgres://…/database')

  return {
    host,
    port,
    database,
    ...optional('user', decoded(url.username) || query.get('user')),
    ...optional('password', decoded(url.password) || query.get('password')),
    ...optional('options', query.get('options')),
    ...sslOf(query),
  }
}

function sslOf(query: URLSearchParams): Pick<PostgresUrl, 'tls' | 'sslMode' | 'sslNegotiation'> {
  if (query.has('uselibpqcompat'))
    throw new TypeError('a URL without uselibpqcompat, which weakens the check of certificates')
  const ssl = query.get('ssl')
  if (ssl !== null && !['true', '1', 'false', '0'].includes(ssl)) {
    throw new TypeError('a URL with ssl=true or ssl=false; certificates are always checked')
  }
  const sslMode = query.get('sslmode')
  if (sslMode !== null && !SSL_MODES.includes(sslMode)) {
    throw new TypeError(
      'a URL with sslmode=disable, or sslmode=verify-full (require and verify-ca are taken as that); certificates are always checked',
    )
  }
  const negotiation = query.get('sslnegotiation')
  if (negotiation !== null && negotiation !== 'postgres' && negotiation !== 'direct') {
    throw new TypeError('a URL with sslnegotiation=postgres or sslnegotiation=direct')
  }
  const files = {
    ...optional('sslRootCert', query.get('sslrootcert')),
    ...optional('sslCert', query.get('sslcert')),
    ...optional('sslKey', query.get('sslkey')),
  }
  const wanted = ssl === 'true' || ssl === '1' || negotiation === 'direct' || Object.keys(files).length > 0
  const refused = sslMode === 'disable' || ssl === 'false' || ssl === '0'
  if (wanted && refused) throw new TypeError('a URL that either asks for TLS or turns it off, not both')
  return {
    tls: !refused && (wanted || sslMode !== null),
    ...optional('sslMode', sslMode),
    ...(negotiation === null ? {} : { sslNegotiation: negotiation }),
    ...files,
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new TypeError('a URL in which every % is followed by two hexadecimal digits')
  }
}

const optional = <K extends string>(key: K, value: string | null | undefined): { [k in K]?: string } =>
  (value ? { [key]: value } : {}) as { [k in K]?: string }
