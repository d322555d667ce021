import { execFile } from 'node:child_process'
import { mkdir, mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { copyTree, runFolder } from '../../testkit/services/folder.js'
import { postgresHost } from '../../testkit/services/postgres-binaries.js'
import { LocalHost } from '../../testkit/services/process.js'
import { type Engine, NoEngine, startEngine } from '../support/engine.js'
import { debianRoot, importRoots, needsDebian } from './base.js'

const vitest = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url))
const image = 'outrider-test/servers'
/** Of what the two files promise, that which containers do otherwise than processes. */
const faults = 'SIGKILL|frozen|standby|why it does not start|replica'

describe('test services in containers', () => {
  it('keep what they promise as processes: started, frozen, killed, restored, on published ports', {
    timeout: 300_000,
  }, async (context) => {
    const missing = needsDebian()
    if (missing) return context.skip(missing)
    if (process.env.OUTRIDER_TEST_SERVICES || process.env.OUTRIDER_TEST_POSTGRES_URL)
      return context.skip('the run already says where its services are')
    const engine = await startEngine('apart').catch((error) => {
      if (error instanceof NoEngine) return error
      throw error
    })
    if (engine instanceof NoEngine) return context.skip(engine.message)
    try {
      await makeServers(engine)
      const files = ['test/support/postgres.slow.test.ts', 'test/support/redis.test.ts']
      const [program = '', ...args] = engine.inside(
        process.execPath,
        vitest,
        'run',
        '--reporter=json',
        '-t',
        faults,
        ...files,
      )
      const env = {
        ...engine.env,
        OUTRIDER_TEST_SERVICES: 'containers',
        OUTRIDER_TEST_POSTGRES_IMAGE: image,
        OUTRIDER_TEST_REDIS_IMAGE: image,
        OUTRIDER_TEST_REDIS: '8.0',
        OUTRIDER_TEST_BROKER: '',
        // The reaper of testcontainers is an image that nobody has here; the engine ends with all its containers.
        TESTCONTAINERS_RYUK_DISABLED: 'true',
      }
      const { stdout } = await promisify(execFile)(program, args, { env, maxBuffer: 2 ** 26 }).catch((error) => error)
      const report = JSON.parse(stdout) as { numPassedTests: number; numFailedTests: number }
      expect(report, stdout).toMatchObject({ success: true, numFailedTests: 0 })
      expect(report.numPassedTests).toBeGreaterThan(6)
      console.log(`test services in containers: ${report.numPassedTests} tests passed`)
    } finally {
      await engine.stop()
    }
  })
})

/** One image with the programs of both, where a shell finds them. */
async function makeServers(engine: Engine): Promise<void> {
  const host = await postgresHost(18)
  if (!(host instanceof LocalHost)) throw new Error('Expected the binaries of Postgres to copy')
  const postgres = await mkdtemp(join(runFolder(), 'servers-'))
  await mkdir(join(postgres, 'usr'))
  await copyTree(join(host.bin, '..'), join(postgres, 'usr/local'))
  await importRoots(engine, image, await debianRoot(['coreutils', 'dash', 'libgcc-s1', 'redis-server']), postgres)
}
