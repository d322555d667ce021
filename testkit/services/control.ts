import { type RedisVersion, redisHost, redisName } from './redis-binaries.js'

const given = {
  postgres: 'OUTRIDER_TEST_POSTGRES_URL',
  redis: 'OUTRIDER_TEST_REDIS_URL',
} as const

/** The part of Vitest's test context that is needed here. */
interface Skippable {
  skip(note?: string): void
}

/**
 * Called first by a test that kills, freezes, restarts or reconfigures servers: where they are given by URL, they are
 * not ours to do that with, so the test ends here and says so.
 */
export function needsProcess(context: Skippable, kinds: (keyof typeof given)[] = ['postgres', 'redis']): void {
  for (const kind of kinds) {
    if (!process.env[given[kind]]) continue
    const reason = `needs a ${kind} process of its own, but ${given[kind]} names a given server`
    console.warn(`skipped: ${reason}`)
    context.skip(reason)
  }
}

/**
 * Called first by a test that needs this version of Redis or Valkey, which is then there for `startRedis({ version })`.
 * Where it cannot be had, the test ends here and says why; that is `undefined` for a caller whose `skip` returns.
 */
export async function redisVersion(context: Skippable, version: RedisVersion): Promise<RedisVersion | undefined> {
  needsProcess(context, ['redis'])
  if (process.env[given.redis]) return undefined
  try {
    await redisHost(version)
    return version
  } catch (error) {
    const reason = `needs ${redisName(version)}: ${(error as Error).message}`
    console.warn(`skipped: ${reason}`)
    context.skip(reason)
    return undefined
  }
}
