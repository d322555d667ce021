import { availableParallelism } from 'node:os'
import { defineConfig, type UserWorkspaceConfig } from 'vitest/config'
import { LongestFirst } from './test/support/longest-first.js'
import { SlowestTests } from './test/support/slowest-tests.js'

/** Tests that take minutes, in any folder: chaos at full size, memory, upgrades. Run by `npm run test:slow`. */
const SLOW = 'test/**/*.slow.test.ts'

/** The folders of test/ with a project of their own: they need more than Node, Postgres and Redis. */
const OWN = ['chart', 'image', 'kubernetes']

const CORES = availableParallelism()

/** A project whose tests need servers. */
const servers = (name: string, include: string[], exclude: string[] = [], more: UserWorkspaceConfig['test'] = {}) => ({
  test: {
    name,
    include,
    exclude,
    // Servers and databases are what files must not share; modules cost each worker once.
    isolate: false,
    unstubEnvs: true,
    globalSetup: ['test/support/global.ts'],
    // Servers may have to be fetched first. Longer than the waits within, which say what they waited for.
    testTimeout: 300_000,
    hookTimeout: 180_000,
    ...more,
  },
})

export default defineConfig({
  test: {
    // Most tests wait for servers more than they compute. VITEST_MAX_WORKERS takes precedence.
    maxWorkers: 3 * CORES,
    sequence: { sequencer: LongestFirst },
    reporters: ['default', new SlowestTests()],
    coverage: { provider: 'v8', include: ['src/**/*.ts'], exclude: ['src/**/*.test.ts'], reporter: ['text', 'html'] },
    projects: [
      // They share nothing but what they import, and a process for each takes longer than its tests.
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'test/simulation/*.test.ts'],
          isolate: false,
          testTimeout: 120_000,
        },
      },
      servers(
        'integration',
        ['test/**/*.test.ts'],
        [SLOW, 'test/simulation/**', ...OWN.map((folder) => `test/${folder}/**`)],
      ),
      ...OWN.map((folder) => servers(folder, [`test/${folder}/**/*.test.ts`], [SLOW])),
      servers('slow', [SLOW], [], {
        // They compute more than the others: more at once would only starve those that measure time.
        maxWorkers: Math.ceil(1.5 * CORES),
        maxConcurrency: 4,
        sequence: { groupOrder: 1 },
        env: { OUTRIDER_TEST_PATIENCE_MS: '300000' },
        testTimeout: 600_000,
      }),
    ],
  },
})
