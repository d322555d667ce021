import { type Finding, info } from './finding.js'
import type { ServerFacts } from './server-facts.js'

const WHY = {
  transaction_timeout: 'the relay sets it to 0 for itself: decoding a large transaction takes as long as it takes',
  idle_session_timeout: 'the relay sets its own for itself: a quiet connection is no lost one',
}

/** Time-outs that someone set for the role, the database or the server, and that do not hold for the relay. Pure. */
export function assessSessionTimeouts({ settings }: ServerFacts): Finding[] {
  return Object.entries(WHY).flatMap(([name, why]) => {
    const { value, source } = settings[name] ?? { value: '0', source: 'default' }
    if (value === '0') return []
    return info({ id: name.replaceAll('_', '-'), is: `${name} is ${value} ms (set by: ${source})`, why })
  })
}
