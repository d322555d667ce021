import { mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { runFolder } from '../../testkit/services/folder.js'
import { needsProcess, type Redis, type RedisOptions, redisVersion, startRedis } from '../../testkit/services/index.js'
import { LocalHost } from '../../testkit/services/process.js'
import { redisHost } from '../../testkit/services/redis-binaries.js'
import { foundServers, isSupported } from '../../testkit/services/redis-program.js'

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

describe('the version', () => {
  it('is chosen for a whole run by OUTRIDER_TEST_REDIS', async (context) => {
    await redisVersion(context, 'valkey-8.1')
    vi.stubEnv('OUTRIDER_TEST_REDIS', 'valkey-8.1')
    expect(await command(await start({}), 'INFO', 'server')).toMatch(/^valkey_version:8\.1/m)
    vi.stubEnv('OUTRIDER_TEST_REDIS', '9')
    await expect(startRedis()).rejects.toThrow('one of 7.0, 8.0, 8.2, 8.10, valkey-8.1, valkey-9.1, found "9"')
  })

  it('is taken from the PATH where one is the version that is asked for, also behind another', async (context) => {
    needsProcess(context, ['redis'])
    const [older, asked] = [serverSaying('Redis server v=8.0.9'), serverSaying('Redis server v=8.2.1 sha=0')]
    vi.stubEnv('PATH', `${older}:${asked}:${process.env.PATH}`)
    expect(await redisHost('8.2')).toEqual(new LocalHost({ bin: asked, origin: 'PATH' }))
  })

  it.each([
    ['Redis server v=7.0.15 sha=0', true],
    ['Redis server v=8.10.2 sha=0', true],
    ['Valkey server v=8.1.1 sha=0', true],
    ['Redis server v=6.2.14 sha=0', false],
    ['Valkey server v=7.2.9 sha=0', false],
    ['a server of another kind', false],
  ])('is any from the PATH that Outrider supports, where none is chosen: %s', async (said, isTaken) => {
    vi.stubEnv('OUTRIDER_TEST_REDIS', '')
    vi.stubEnv('OUTRIDER_TEST_SERVICES', '')
    const folder = serverSaying(said)
    vi.stubEnv('PATH', `${folder}:${process.env.PATH}`)
    expect(
      foundServers('redis-server')
        .filter(isSupported)
        .map((found) => found.folder)
        .includes(folder),
    ).toBe(isTaken)
    if (isTaken) expect(await redisHost()).toEqual(new LocalHost({ bin: folder, origin: 'PATH' }))
  })

  it('ends a test that needs one which cannot be had, and says why', async (context) => {
    needsProcess(context, ['redis'])
    vi.stubEnv('PATH', '')
    vi.stubEnv('OUTRIDER_TEST_CACHE', mkdtempSync(join(runFolder(), 'cache-')))
    for (const [version, name] of [
      ['8.0', 'Redis 8.0'],
      ['valkey-9.1', 'Valkey 9.1'],
    ] as const) {
      const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
      const skip = vi.fn()
      expect(await redisVersion({ skip }, version)).toBeUndefined()
      const reason = `needs ${name}: Expected ${name} on the PATH, from a package registry or in Docker, found none.`
      expect(skip).toHaveBeenCalledExactlyOnceWith(expect.stringContaining(reason))
      expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringContaining(`skipped: ${reason}`))
      warn.mockRestore()
    }
  })
})

/** A folder, with a space in its name, of a redis-server that only says its version. */
function serverSaying(said: string): string {
  const folder = mkdtempSync(join(runFolder(), 'a path-'))
  writeFileSync(join(folder, 'redis-server'), `#!/bin/sh\necho '${said}'\n`, { mode: 0o755 })
  return folder
}
