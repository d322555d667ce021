import { createHash } from 'node:crypto'
import { parseRedisUrl } from '../../config/redis-url.js'

/**
 * A hash of what says which Redis a URL leads to: hosts and ports in any order, the name of the master, the database. Not of
 * the credentials, nor of TLS.
 */
export function addressHash(url: string): string {
  const { nodes, name, db } = parseRedisUrl(url)
  const hosts = nodes.map(({ host, port }) => `${host.toLowerCase()}:${port}`).sort()
  return createHash('sha256')
    .update([...hosts, name ?? '', String(db)].join('\n'))
    .digest('hex')
    .slice(0, 32)
}
