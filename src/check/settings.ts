import type { Config } from '../config/schema.js'
import { type Finding, inConfiguration, warning } from './finding.js'

/** What can be said of the configuration without either server. Pure. */
export const judgeSettings = ({ withoutEffect }: Pick<Config, 'withoutEffect'>): Finding[] =>
  withoutEffect.map((setting) =>
    warning({
      id: 'setting-without-effect',
      is: `${setting} is set and has no effect in this version`,
      expected: 'it not set',
      why: 'repair and retention are being built: a gap halts the relay, and rows stay in the outbox',
      fix: [inConfiguration(`# remove ${setting}`)],
    }),
  )
