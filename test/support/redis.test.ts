import { readdirSync, readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { daDK, freshRedis, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { own } from './own.js'

describe('Redis', () => {
  it('loses everything by SIGKILL, or nothing with an append-only file', async (context) => {
    needsProcess(context, ['redis'])
    for (const [appendonly, left] of [
      ['no', null],
      ['yes', 'value'],
    ] as const) {
      const redis = own(await startRedis({ settings: { appendonly, appendfsync: 'everysec' } }))
      await redis.command('SET', 'key', 'value')
      await redis.kill('SIGKILL')
      await expect(redis.command('PING')).rejects.toThrow()
      await redis.start()
      expect(await redis.command('GET', 'key')).toBe(left)
    }
  })

  it('that was killed within a transaction never executes its half, however often it is killed again', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { appendonly: 'yes' } }))
    const push = (...values: string[]) =>
      redis.command('EVAL', "for _, v in ipairs(ARGV) do redis.call('RPUSH', KEYS[1], v) end", '1', 'list', ...values)
    await push('one', 'two')
    await push('three', 'four')
    await redis.kill()
    const folder = join(redis.dataDir, 'appendonlydir')
    const file = join(folder, readdirSync(folder).find((name) => name.includes('.incr.')) as string)
    truncateSync(file, readFileSync(file, 'latin1').indexOf('four') + 1)
    await redis.start()
    await push('three', 'four')
    await redis.kill()
    await redis.start()
    expect(await redis.command('LRANGE', 'list', '0', '-1')).toEqual(['one', 'two', 'three', 'four'])
  })

  it('answers nothing while frozen, and continues when thawed', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis())
    await redis.freeze()
    let answered = false
    const answer = redis.command('PING').then(() => {
      answered = true
    })
    await expect(until(() => answered, { timeout: 300 })).rejects.toThrow('within 300 ms')
    await redis.thaw()
    await answer
  })

  it('is put back to a snapshot of its data', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { appendonly: 'yes' } }))
    await redis.command('SET', 'key', 'old')
    const snapshot = await redis.cloneData()
    await redis.command('SET', 'key', 'new')
    await redis.restore(snapshot)
    expect(await redis.command('GET', 'key')).toBe('old')
    await redis.stop()
    expect(redis.isRunning).toBe(false)
  })

  it('takes settings at its start, while it runs and at a restart', async (context) => {
    needsProcess(context, ['redis'])
    const redis = own(await startRedis({ settings: { requirepass: 'p:w', user: ['a on nopass +ping', 'b off'] } }))
    expect(await redis.command('ACL', 'USERS')).toEqual(['a', 'b', 'default'])
    await redis.config('maxmemory', '3mb')
    expect(await redis.command('CONFIG', 'GET', 'maxmemory')).toEqual(['maxmemory', '3145728'])
    await redis.stop()
    await redis.start({ maxmemory: '5mb' })
    expect(await redis.command('CONFIG', 'GET', 'maxmemory')).toEqual(['maxmemory', '5242880'])
  })

  it('follows a primary as its replica', async (context) => {
    needsProcess(context, ['redis'])
    const primary = own(await startRedis())
    const replica = own(await startRedis({ replicaOf: primary }))
    await primary.command('SET', 'key', 'value')
    await until(async () => (await replica.command('GET', 'key')) === 'value', { message: 'the replica to catch up' })
  })

  it('sorts as Danish does under da_DK', async (context) => {
    needsProcess(context, ['redis'])
    const env = await daDK()
    if (!env) return context.skip('the locale da_DK cannot be had here')
    const danish = own(await startRedis({ env }))
    const plain = own(await startRedis())
    const script = "return tostring('aa' < 'z')"
    expect([await danish.command('EVAL', script, '0'), await plain.command('EVAL', script, '0')]).toEqual([
      'false',
      'true',
    ])
  })

  it('is had empty by a test that needs no control over it', async () => {
    const redis = await freshRedis()
    const client = redis.client()
    expect(await client.get('key')).toBe(null)
    client.disconnect()
    await redis.remove()
  })
})
