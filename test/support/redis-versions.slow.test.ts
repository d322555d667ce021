import { describe, expect, it, onTestFinished } from 'vitest'
import {
  daDK,
  type Redis,
  type RedisOptions,
  type RedisVersion,
  redisVersion,
  startRedis,
  until,
} from '../../testkit/services/index.js'

const servers: [RedisVersion, said: RegExp][] = [
  ['7.0', /^redis_version:7\.0\./m],
  ['8.0', /^redis_version:8\.0\./m],
  ['8.2', /^redis_version:8\.2\./m],
  ['8.10', /^redis_version:8\.10\./m],
  ['valkey-8.1', /^valkey_version:8\.1\./m],
  ['valkey-9.1', /^valkey_version:9\.1\./m],
]

async function start(options: RedisOptions): Promise<Redis> {
  const redis = await startRedis(options)
  onTestFinished(() => redis.remove())
  return redis
}

async function command(redis: Redis, ...words: [string, ...string[]]): Promise<unknown> {
  const client = redis.client()
  const [name, ...values] = words
  return client.call(name, ...values).finally(() => client.disconnect())
}

/** The reply to WAITAOF on the connection that wrote, or the refusal of a server that lacks it. */
async function waitAof(redis: Redis): Promise<unknown> {
  const client = redis.client()
  await client.set('key', 'value')
  const reply = client.call('WAITAOF', '1', '0', '10000').catch((error: Error) => error.message)
  return reply.finally(() => client.disconnect())
}

describe.each(servers)('version %s', (version, said) => {
  it('starts, is killed, and starts again with what it had synced', async (context) => {
    await redisVersion(context, version)
    const redis = await start({ version, settings: { appendonly: 'yes', appendfsync: 'always' } })
    expect(await command(redis, 'INFO', 'server')).toMatch(said)
    await command(redis, 'SET', 'key', 'value')
    const { pid } = redis
    await redis.kill()
    await redis.start()
    expect(redis.pid).not.toBe(pid)
    expect(await command(redis, 'GET', 'key')).toBe('value')
  })

  it('is that of a replica, too', async (context) => {
    await redisVersion(context, version)
    const primary = await start({ version })
    const replica = await start({ replicaOf: primary })
    expect(replica.version).toBe(version)
    await command(primary, 'SET', 'key', 'value')
    await until(async () => (await command(replica, 'GET', 'key')) === 'value', { message: 'the replica to catch up' })
  })

  it('sorts as Danish does under da_DK', async (context) => {
    await redisVersion(context, version)
    const env = await daDK()
    if (!env) return context.skip('the locale da_DK cannot be had here')
    const redis = await start({ version, env })
    expect(await command(redis, 'EVAL', "return tostring('aa' < 'z')", '0')).toBe('false')
  })
})

describe.each(['8.0', 'valkey-8.1'] as const)('WAITAOF on %s', (version) => {
  it('confirms a write that was synced here', async (context) => {
    await redisVersion(context, version)
    expect(await waitAof(await start({ version, settings: { appendonly: 'yes' } }))).toEqual([1, 0])
  })

  it('is refused where nothing is appended to a file', async (context) => {
    await redisVersion(context, version)
    expect(await waitAof(await start({ version }))).toMatch(/appendonly is disabled/)
  })
})
