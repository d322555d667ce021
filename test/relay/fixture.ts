import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test as base } from 'vitest'
import { createScenario, type Scenario } from './scenario.js'

interface Fixtures {
  /** Makes one, and takes it down when the test is over. */
  scenario(...options: Parameters<typeof createScenario>): Promise<Scenario>
  /** The path of a file with this configuration, for `OUTRIDER_CONFIG`. */
  configFile(yaml: string): Promise<string>
}

export const test = base.extend<Fixtures>({
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
  // biome-ignore lint/correctness/noEmptyPattern: Vitest wants the pattern to see which fixtures are needed.
  configFile: async ({}, use) => {
    const folder = await mkdtemp(join(tmpdir(), 'outrider-'))
    await use(async (yaml) => {
      const file = join(folder, 'outrider.yaml')
      await writeFile(file, yaml)
      return file
    })
    await rm(folder, { recursive: true })
  },
})
