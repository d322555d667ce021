import { Cluster } from 'ioredis'
import type { RedisClient } from './connect.js'

/** Something larger than the servers take may be on its way to them already, and would be refused again and again. */
export class BulkLimitLoweredError extends Error {
  override name = 'BulkLimitLoweredError'

  constructor(limit: number, found: number) {
    super(
      `Expected rows of at most ${limit} bytes, as proto-max-bulk-len of Redis has it, found that one of ${found} bytes was ` +
        'read before Redis was asked. The relay reads again from Postgres, and rejects what is too large.',
    )
  }
}

/**
 * The largest argument, in bytes, that the servers take (proto-max-bulk-len). They answer a larger one by closing the
 * connection, often before their reason is read. Endless where CONFIG is not permitted, as managed services have it.
 */
export async function readBulkLimit(client: RedisClient): Promise<number> {
  const nodes = client instanceof Cluster ? client.nodes('master') : [client]
  const limits = await Promise.all(
    nodes.map(async (node) => {
      try {
        const [, limit] = (await node.config('GET', 'proto-max-bulk-len')) as string[]
        return Number(limit ?? Number.POSITIVE_INFINITY)
      } catch (error) {
        if ((error as Error).name !== 'ReplyError') throw error
        return Number.POSITIVE_INFINITY
      }
    }),
  )
  return Math.min(...limits)
}
