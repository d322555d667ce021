export interface RedisNode {
  host: string
  port: number
}

/** What a Redis URL says, whatever the form. */
export interface RedisUrl {
  mode: 'standalone' | 'sentinel' | 'cluster'
  /** The server; or the sentinels; or some of the cluster's nodes, from which the others are found. Never empty. */
  nodes: [RedisNode, ...RedisNode[]]
  /** What the sentinels call the master. */
  name?: string
  /** Always 0 in a cluster. */
  db: number
  tls: boolean
  username?: string
  password?: string
}

const SCHEME = /^redis(s)?(?:\+(sentinel|cluster))?:$/
const FORMS = 'redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://'

/**
 * Reads
 * - `redis://user:password@host:6379/0`
 * - `redis+sentinel://user:password@host:26379/name?node=host2:26379&node=…`, the database behind the name: `/name/2`
 * - `redis+cluster://user:password@host:6379?node=host2:6379&node=…`
 *
 * each with `rediss` for TLS. Throws a TypeError whose message says what was expected and holds nothing of the URL.
 */
export function parseRedisUrl(text: string): RedisUrl {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw new TypeError(
      `a URL that starts with ${FORMS} and names one host, with special characters in the password percent-encoded`,
    )
  }
  const [scheme, secure, kind] = SCHEME.exec(url.protocol) ?? []
  if (scheme === undefined) throw new TypeError(`a URL that starts with ${FORMS}`)
  const mode = (kind ?? 'standalone') as RedisUrl['mode']
  const first = nodeOf(url.host, mode)
  if (url.hash !== '') throw new TypeError('a URL without #, which is written %23 in a password')
  for (const key of url.searchParams.keys()) {
    if (mode === 'standalone')
      throw new TypeError('a URL without parameters; TLS and time-outs are settings of their own')
    if (key !== 'node') throw new TypeError('a URL with no other parameters than node=host:port')
  }
  return {
    mode,
    nodes: [first, ...url.searchParams.getAll('node').map((node) => nodeOf(node, mode))],
    tls: secure === 's',
    ...pathOf(url.pathname, mode),
    ...(url.username === '' ? {} : { username: decoded(url.username) }),
    ...(url.password === '' ? {} : { password: decoded(url.password) }),
  }
}

function pathOf(pathname: string, mode: RedisUrl['mode']): { db: number; name?: string } {
  const parts = pathname.split('/').slice(1).map(decoded)
  if (parts.at(-1) === '') parts.pop()
  if (mode === 'sentinel') {
    const [name, db = '0', ...more] = parts
    if (!name || more.length > 0)
      throw new TypeError("a URL with the master's name behind the host: redis+sentinel://host:26379/name")
    return { name, db: dbOf(db) }
  }
  const [db = '0', ...more] = parts
  if (more.length > 0)
    throw new TypeError('a URL with nothing but the number of the database behind the host: redis://host:6379/0')
  if (mode === 'cluster' && dbOf(db) !== 0)
    throw new TypeError('a URL without a database; a cluster has only database 0')
  return { db: dbOf(db) }
}

function dbOf(text: string): number {
  if (!/^\d{1,5}$/.test(text))
    throw new TypeError('a URL with the number of the database behind the host: redis://host:6379/0')
  return Number(text)
}

/** `host`, `host:port` or `[::1]:port`. */
function nodeOf(text: string, mode: RedisUrl['mode']): RedisNode {
  const [, bracketed, plain, port] = /^(?:\[([0-9A-Fa-f:.%]+)\]|([^:[\]/?#@\s]+))(?::(\d{1,5}))?$/.exec(text) ?? []
  const host = bracketed ?? plain
  const number = Number(port ?? (mode === 'sentinel' ? 26379 : 6379))
  if (host === undefined) throw new TypeError('a URL with hosts as host:port, and IPv6 addresses as [address]:port')
  if (number < 1 || number > 65535) throw new TypeError('a URL with ports from 1 to 65535')
  return { host: decoded(host), port: number }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new TypeError('a URL in which every % is followed by two hexadecimal digits')
  }
}
