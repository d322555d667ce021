import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { chosenVersion, postgresHost } from '../../testkit/services/postgres-binaries.js'
import { redisHost } from '../../testkit/services/redis-binaries.js'
import { own } from './own.js'

describe('the guard', () => {
  it('ends what a killed test run had started, frozen or not, and nothing else', async (context) => {
    needsProcess(context)
    const hosts = [await postgresHost(chosenVersion()), await redisHost()]
    if (!hosts.every((host) => host.isLocal))
      return context.skip('containers are ended by the reaper of testcontainers')
    const bystander = own(await startRedis())
    const script = `
      import { startPostgres, startRedis } from ${JSON.stringify(new URL('../../testkit/services/index.ts', import.meta.url).href)}
      const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
      const client = await postgres.connect()
      const { rows } = await client.query('select pg_backend_pid() as pid')
      await postgres.freeze()
      console.log(JSON.stringify({ pids: [postgres.pid, redis.pid, rows[0].pid], folder: redis.dataDir }))
      setInterval(() => {}, 1000)
    `
    const run = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [line] = await once(run.stdout, 'data')
    const { pids, folder } = JSON.parse(String(line)) as { pids: number[]; folder: string }
    expect(pids.map(isAlive)).toEqual([true, true, true])
    run.kill('SIGKILL')
    const gone = () => !pids.some(isAlive) && !existsSync(folder)
    await until(gone, { message: () => `the processes ${pids} and ${folder} to be gone` })
    expect(await bystander.command('PING')).toBe('PONG')
  })
})

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
