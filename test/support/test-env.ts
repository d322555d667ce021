import type { Redis as Client } from 'ioredis'
import { createDatabase, type Database, type FreshRedis, freshRedis } from '../../testkit/services/index.js'
import { createMigratedDatabase, type Part } from './migrated-database.js'

/** The servers that every integration test needs: a database and a Redis. */
export interface TestEnv {
  database: Database
  server: FreshRedis
  /** A client of the Redis, which reconnects and retries. */
  redis: Client
  close(): Promise<void>
}

export interface TestEnvOptions {
  /** Default: a new one in the cluster that the test files share. The caller drops a database that it gives. */
  database?: Database | undefined
  /** Which migrations a new database has already; none by default. */
  migrated?: Part | undefined
  /** Default: an empty one. */
  redis?: FreshRedis | undefined
}

export async function createTestEnv(options: TestEnvOptions = {}): Promise<TestEnv> {
  const { migrated } = options
  const database = options.database ?? (await (migrated ? createMigratedDatabase(migrated) : createDatabase()))
  const server = options.redis ?? (await freshRedis())
  const redis = server.client({ retryStrategy: () => 50, maxRetriesPerRequest: null })
  redis.on('error', () => {})
  return {
    database,
    server,
    redis,
    async close() {
      redis.disconnect()
      await server.remove()
      if (!options.database) await database.drop()
    },
  }
}
