import { test as base } from 'vitest'
import { createScenario, type Scenario } from './scenario.js'

/** `scenario()` makes one, and takes it down when the test is over. A failing test shows what its relays said last. */
export const test = base.extend<{ scenario: (...options: Parameters<typeof createScenario>) => Promise<Scenario> }>({
  // biome-ignore lint/correctness/noEmptyPattern: Vitest wants the pattern to see which fixtures are needed.
  scenario: async ({}, use) => {
    const made: Scenario[] = []
    await use(async (...options) => {
      const scenario = await createScenario(...options)
      made.push(scenario)
      return scenario
    })
    for (const scenario of made) await scenario.close()
  },
})
