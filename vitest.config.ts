import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    globalSetup: ['test/support/global.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Two cores carry the tests and the servers they start: more files at once only make every deadline late.
    maxWorkers: 2,
  },
})
