import { Cluster, type Redis } from 'ioredis'
import type { RedisConfig } from '../../config/schema.js'
import { closeRedis, connectRedis, type RedisClient } from './connect.js'

/**
 * Connects as `connectRedis` does, and only to primaries. A Service, a virtual IP address, DNS or an outdated sentinel may
 * lead to a replica for a while: it runs scripts that only read, and what it has not received yet looks like a loss.
 */
export async function connectPrimary(config: RedisConfig, name: string, commandTimeout?: number): Promise<RedisClient> {
  const client = await connectRedis(config, name, commandTimeout)
  try {
    await requirePrimary(client)
  } catch (error) {
    closeRedis(client)
    throw error
  }
  return client
}

/** Rejects unless every node that takes this client's writes says that it is a primary. In a cluster: each of its primaries. */
export async function requirePrimary(client: RedisClient): Promise<void> {
  const nodes = client instanceof Cluster ? client.nodes('master') : [client]
  await Promise.all(
    nodes.map(async (node) => {
      const role = await roleOf(node)
      if (role === 'master') return
      throw new Error(
        `Expected a primary of Redis, found the role "${role}" (a replica is called "slave"). ` +
          'If no failover is under way, correct the URL.',
      )
    }),
  )
}

/**
 * Where ROLE is not permitted, or not offered, INFO tells the same: ACLs written before the relay asked for ROLE permit
 * INFO. Where neither is permitted the refusal is thrown: a loss that cannot be told from a replica must not be recorded.
 *
 * https://redis.io/docs/latest/commands/role/
 */
export async function roleOf(node: Redis): Promise<string> {
  try {
    return String((await node.role())[0])
  } catch (error) {
    if (!/^NOPERM|^ERR unknown command/i.test((error as Error).message)) throw error
    const info = await node.info('replication')
    return /^role:(\w+)/m.exec(info)?.[1] ?? 'unknown'
  }
}
