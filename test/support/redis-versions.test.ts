import { mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { runFolder } from '../../testkit/services/folder.js'
import {
  daDK,
  needsProcess,
  type Redis,
  type RedisOptions,
  redisVersion,
  startRedis,
  until,
} from '../../testkit/services/index.js'
import { LocalHost } from '../../testkit/services/process.js'
import { redisHost } from '../../testkit/services/redis-binaries.js'

const servers = { 7: /^redis_version:\d/m, 8: /^redis_version:([89]|\d\d|7\.[2-9])/m, valkey: /^valkey_version:\d/m }

// The first to ask for a version may have to fetch it.
vi.setConfig({ testTimeout: 180_000 })

afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
})

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

describe.each([7, 8, 'valkey'] as const)('version %s', (version) => {
  it('starts, is killed, and starts again with what it had synced', async (context) => {
    await redisVersion(context, version)
    const redis = await start({ version, settings: { appendonly: 'yes', appendfsync: 'always' } })
    expect(await command(redis, 'INFO', 'server')).toMatch(servers[version])
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

describe.each([8, 'valkey'] as const)('WAITAOF on %s', (version) => {
  it('confirms a write that was synced here', async (context) => {
    await redisVersion(context, version)
    expect(await waitAof(await start({ version, settings: { appendonly: 'yes' } }))).toEqual([1, 0])
  })

  it('is refused where nothing is appended to a file', async (context) => {
    await redisVersion(context, version)
    expect(await waitAof(await start({ version }))).toMatch(/appendonly is disabled/)
  })
})

describe('the version', () => {
  it('is chosen for a whole run by OUTRIDER_TEST_REDIS', async (context) => {
    await redisVersion(context, 'valkey')
    vi.stubEnv('OUTRIDER_TEST_REDIS', 'valkey')
    expect(await command(await start({}), 'INFO', 'server')).toMatch(servers.valkey)
    vi.stubEnv('OUTRIDER_TEST_REDIS', '9')
    await expect(startRedis()).rejects.toThrow('one of 7, 8, valkey, found "9"')
  })

  it('is taken from the PATH where that one is late enough', async (context) => {
    await redisVersion(context, 8)
    const [usual, later] = [await redisHost(7), await redisHost(8)]
    if (!(usual instanceof LocalHost && later instanceof LocalHost))
      return context.skip('Redis runs in containers here')
    const { PATH } = process.env
    vi.stubEnv('PATH', `${usual.bin}:${PATH}`)
    for (const [name, value] of Object.entries(usual.env)) vi.stubEnv(name, value)
    expect(await redisHost(8)).toEqual(later)
    vi.stubEnv('PATH', `${later.bin}:${PATH}`)
    vi.stubEnv('OUTRIDER_TEST_CACHE', mkdtempSync(join(runFolder(), 'cache-')))
    expect(await redisHost(8)).toEqual(new LocalHost(later.bin))
  })

  it('ends a test that needs one which cannot be had, and says why', async (context) => {
    needsProcess(context, ['redis'])
    vi.stubEnv('PATH', '')
    vi.stubEnv('OUTRIDER_TEST_CACHE', mkdtempSync(join(runFolder(), 'cache-')))
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
    const skip = vi.fn()
    expect(await redisVersion({ skip }, 8)).toBeUndefined()
    expect(skip).toHaveBeenCalledExactlyOnceWith(expect.stringMatching(/^needs Redis 8: Expected .+/s))
    expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringMatching(/^skipped: needs Redis 8: /))
  })
})
