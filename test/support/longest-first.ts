import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** The folders whose tests wait longest. */
const LONGEST = ['/test/examples/', '/test/relay/', '/test/consumer/']

/**
 * Begins with what takes longest, so that short files fill the gaps: a long one that begins last runs alone. Vitest
 * knows how long a file takes only when an earlier run has measured it.
 */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification) => LONGEST.some((folder) => moduleId.includes(folder))
    const sorted = await super.sort(files)
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))]
  }
}
