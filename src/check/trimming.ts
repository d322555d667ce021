import type { Config } from '../config/schema.js'
import { isLeftToDefault } from '../config/trimming.js'
import { type Finding, inConfiguration, warning } from './finding.js'
import type { SetupFacts } from './setup-facts.js'

/** An upgrade does not begin to trim by itself. Pure. */
export function assessTrimming({ trims }: Pick<SetupFacts, 'trims'>, { streams }: Pick<Config, 'streams'>): Finding[] {
  if (trims !== false || !isLeftToDefault(streams)) return []
  return [
    warning({
      id: 'streams-not-trimmed',
      is: 'an earlier version set up this installation, and streams without a retention of their own are not trimmed',
      expected: 'a retention of every stream; 0 keeps everything',
      why: 'the streams grow until the memory of Redis is full',
      fix: [inConfiguration('streams:\n  "*":\n    retention: 7d')],
    }),
  ]
}
