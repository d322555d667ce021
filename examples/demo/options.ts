import { parseArgs } from 'node:util'

export interface DemoOptions {
  /** How many events the writers commit, all together. */
  events: number
  /** How many times the active relay is killed meanwhile. */
  kills: number
  /** How many times a worker of one of the groups is killed meanwhile. */
  workerKills: number
  /** Whether everything is left running at the end. */
  keep: boolean
}

export const USAGE = `npm run demo -- [--events <number>] [--kills <number>] [--worker-kills <number>] [--keep]

  --events         how many events the writers commit (10000)
  --kills          how many times the active relay is killed by SIGKILL meanwhile (5)
  --worker-kills   how many times a worker, any one, is killed by SIGKILL meanwhile (10)
  --keep           leave everything running until Ctrl-C, and say what to try

Needs nothing but Node and npm: Postgres comes from npm; Redis from the PATH, else from Docker, else from Debian's
package. Both run in a temporary folder and end with the demo. Exit code 1 if a check fails.`

/** Undefined where help is asked for. Throws an error for a person where an option is wrong. */
export function readOptions(args: string[]): DemoOptions | undefined {
  const { values } = parseArgs({
    args,
    options: {
      events: { type: 'string', default: '10000' },
      kills: { type: 'string', default: '5' },
      'worker-kills': { type: 'string', default: '10' },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return undefined
  return {
    events: count('--events', values.events, 100, 1_000_000),
    kills: count('--kills', values.kills, 0, 100),
    workerKills: count('--worker-kills', values['worker-kills'], 0, 100),
    keep: values.keep,
  }
}

function count(name: string, text: string, least: number, most: number): number {
  const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
  if (number >= least && number <= most) return number
  throw new Error(`${name}: expected a whole number from ${least} to ${most}, found "${text}".`)
}
