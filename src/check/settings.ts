import type { Config } from '../config/schema.js'
import { type Finding, inConfiguration, warning } from './finding.js'

/** What can be said of the configuration without either server. Pure. */
export const assessSettings = ({ withoutEffect }: Pick<Config, 'withoutEffect'>): Finding[] =>
  withoutEffect.map((setting) =>
    warning({
      id: 'setting-without-effect',
      is: `${setting} is set and has no effect in this version`,
      expected: 'it not set',
      why: 'the retention of the outbox is being built: rows stay in it',
      fix: [inConfiguration(`# remove ${setting}`)],
    }),
  )
