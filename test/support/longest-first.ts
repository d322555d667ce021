import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What takes longest, by a part of the path: the first ones begin first. */
const LONGEST = [
  ...[
    '/test/healing/',
    '/relay/repair.',
    '/many-streams.',
    '/relay/upgrade.',
    '/promoted-standby.',
    '/chaos.',
    '/order.',
    '/test/examples/',
  ],
  ...['/roles/redis-', '/test/relay/', '/test/consumer/'],
  ...['/test/roles/', '/test/check/', '/test/cli/', '/test/chart/'],
]

/**
 * Begins with what takes longest, so that short files fill the gaps: a long one that begins last runs alone. Vitest
 * knows how long a file takes only when an earlier run has measured it, and else goes by the size of the file.
 */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const place = LONGEST.findIndex((part) => moduleId.includes(part))
      return place === -1 ? LONGEST.length : place
    }
    const sorted = await super.sort(files)
    return sorted.toSorted((one, other) => rank(one) - rank(other))
  }
}
