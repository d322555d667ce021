import { parseDuration } from '../base/units.js'
import type { Context } from './command.js'
import { printable } from './output.js'
import { usage } from './usage.js'

/** The value of `--since` in milliseconds since 1970. */
export function sinceOf(value: Context['flags'][string]): number | undefined {
  if (value === undefined) return undefined
  const ago = parseDuration(value)
  const time = ago === undefined ? timeOf(String(value)) : Date.now() - ago
  if (time !== undefined && time >= 0 && time <= Date.now()) return time
  throw usage(
    `--since: expected a duration such as 24h, or a time in the past such as 2026-11-29T08:00:00Z, found "${printable(String(value))}".`,
  )
}

/** A time without a zone would be another one on another machine. */
function timeOf(value: string): number | undefined {
  const isTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)$/.test(value)
  const time = isTime ? Date.parse(value) : Number.NaN
  return Number.isNaN(time) ? undefined : time
}
