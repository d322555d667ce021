import { parseDuration } from '../base/units.js'

/** `500ms`, `30s`, `10m`, `72h`, `7d`, or a number of milliseconds; a text needs its unit. */
export type Duration = string | number

/** In milliseconds. Throws a TypeError that names the option. */
export function durationOf(name: string, value: Duration, least = 1, most = Number.MAX_SAFE_INTEGER): number {
  // The configuration takes '10' for milliseconds; here it may be meant as seconds or minutes.
  const lacksUnit = typeof value === 'string' && /\d\s*$/.test(value)
  const parsed = lacksUnit ? undefined : parseDuration(value)
  if (parsed !== undefined && parsed >= least && parsed <= most) return parsed
  const bounds = `at least ${least} ms${most < Number.MAX_SAFE_INTEGER ? ` and at most ${most} ms` : ''}`
  throw new TypeError(
    `Expected ${name} as a duration such as 500ms, 30s or 10m, ${bounds}, found ${JSON.stringify(value)}` +
      `${lacksUnit ? ' without a unit' : ''}.`,
  )
}

/** Throws a TypeError that names the option. */
export function countOf(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new TypeError(`Expected ${name} as a whole number from ${least} to ${most}, found ${JSON.stringify(value)}.`)
}
