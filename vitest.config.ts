import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { LongestFirst } from './test/support/longest-first.js'
import { SlowestTests } from './test/support/slowest-tests.js'

/** Tests that take minutes, in any folder: chaos at full size, memory, upgrades. Run by `npm run test:slow`. */
const SLOW = 'test/**/*.slow.test.ts'

/** The folders of test/ with a project of their own: they need more than Node, Postgres and Redis. */
const OWN = ['chart', 'image', 'kubernetes']

/** A project whose tests need servers. */
const servers = (name: string, include: string[], exclude: string[] = []) => ({
  test: {
    name,
    include,
    exclude,
    // Servers and databases are what files must not share; modules cost each worker once.
    isolate: false,
    unstubEnvs: true,
    globalSetup: ['test/support/global.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})

export default defineConfig({
  test: {
    // Most tests wait for servers more than they compute. VITEST_MAX_WORKERS takes precedence.
    maxWorkers: 2 * availableParallelism(),
    sequence: { sequencer: LongestFirst },
    reporters: ['default', new SlowestTests()],
    coverage: { provider: 'v8', include: ['src/**/*.ts'], exclude: ['src/**/*.test.ts'], reporter: ['text', 'html'] },
    projects: [
      // They share nothing but what they import, and a process for each takes longer than its tests.
      { test: { name: 'unit', include: ['src/**/*.test.ts'], isolate: false, testTimeout: 120_000 } },
      servers('integration', ['test/**/*.test.ts'], [SLOW, ...OWN.map((folder) => `test/${folder}/**`)]),
      ...OWN.map((folder) => servers(folder, [`test/${folder}/**/*.test.ts`], [SLOW])),
      servers('slow', [SLOW]),
    ],
  },
})
