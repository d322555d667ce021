import { describe, expect, it, vi } from 'vitest'
import { freshRedis, needsProcess, PostgresServer, startPostgres, startRedis } from '../../testkit/services/index.js'
import { own } from './own.js'

describe('given servers', () => {
  it('end a test that needs a process, and say so', () => {
    vi.stubEnv('OUTRIDER_TEST_REDIS_URL', 'redis://given.example')
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
    const skip = vi.fn()
    needsProcess({ skip }, ['postgres'])
    expect(skip).not.toHaveBeenCalled()
    needsProcess({ skip })
    expect(skip).toHaveBeenCalledWith(expect.stringContaining('OUTRIDER_TEST_REDIS_URL names a given server'))
    expect(warn).toHaveBeenCalledOnce()
    vi.unstubAllEnvs()
    warn.mockRestore()
  })

  it('are used where no process is needed', async (context) => {
    needsProcess(context)
    const postgres = own(await startPostgres())
    const redis = own(await startRedis())
    vi.stubEnv('OUTRIDER_TEST_REDIS_URL', redis.url)
    const [one, other] = [await freshRedis(), await freshRedis()]
    expect([one.url, other.url]).toEqual([`${redis.url}/1`, `${redis.url}/2`])
    await one.remove()
    expect((await freshRedis()).url).toBe(one.url)
    await expect(startRedis()).rejects.toThrow('needsProcess')
    vi.unstubAllEnvs()
    const database = await new PostgresServer(postgres.url()).createDatabase()
    expect(await database.query('select 1 as one')).toEqual([{ one: 1 }])
  })
})
