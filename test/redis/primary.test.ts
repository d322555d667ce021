import { describe, expect, it, onTestFinished } from 'vitest'
import { classifyRedisError } from '../../src/redis/client/errors.js'
import { connectPrimary } from '../../src/redis/client/primary.js'
import { needsProcess, type Redis, startRedis, until } from '../../testkit/services/index.js'

async function start(...options: Parameters<typeof startRedis>): Promise<Redis> {
  const redis = await startRedis(...options)
  onTestFinished(() => redis.remove())
  return redis
}

async function connect(url: string): Promise<string> {
  try {
    const client = await connectPrimary({ url, connectTimeout: 5_000 }, 'primary')
    client.disconnect()
    return 'primary'
  } catch (error) {
    return classifyRedisError(error).reason
  }
}

/** The URL of a user who lacks these commands. */
async function without(redis: Redis, ...commands: string[]): Promise<string> {
  await redis.command('ACL', 'SETUSER', 'relay', 'on', '>secret', '+@all', '~*', ...commands.map((name) => `-${name}`))
  return redis.url.replace('redis://', 'redis://relay:secret@')
}

describe('a primary is told from a replica', () => {
  it.for([
    ['by ROLE', []],
    ['by INFO where ROLE is not permitted', ['role']],
  ] as const)('%s', async ([, denied], context) => {
    needsProcess(context, ['redis'])
    const primary = await start()
    const replica = await start({ replicaOf: primary })
    expect(await connect(await without(primary, ...denied))).toBe('primary')
    expect(await connect(await without(replica, ...denied))).toBe('redis_readonly')
  })

  it('by nothing where both are refused: then it is not used', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await start()
    expect(await connect(await without(redis, 'role', 'info'))).toBe('redis_noperm')
  })

  it('in a cluster by each of its primaries', async (context) => {
    needsProcess(context, ['redis'])
    const redis = await start({ settings: { 'cluster-enabled': 'yes', 'cluster-announce-ip': '127.0.0.1' } })
    await redis.command('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
    await until(async () => String(await redis.command('CLUSTER', 'INFO')).includes('cluster_state:ok'))
    const url = (await without(redis)).replace('redis://', 'redis+cluster://')
    expect(await connect(url)).toBe('primary')
    const refused = (await without(redis, 'role', 'info')).replace('redis://', 'redis+cluster://')
    expect(await connect(refused)).toBe('redis_noperm')
  })
})
