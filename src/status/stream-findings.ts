import { compareIds } from '../event/entry-id.js'
import { finding, type StatusFinding } from './finding.js'
import { plural } from './format.js'
import { baseOf } from './groups.js'
import type { LineageStatus } from './postgres.js'
import type { RedisStatus } from './redis.js'

/** A relay that runs records a gap for these; without one it is not noticed. */
export function streamFindings(
  { missing, streams }: RedisStatus,
  { streams: saved, incidents }: LineageStatus,
): StatusFinding[] {
  const recorded = new Set(incidents.lostStreams)
  // An entry of zero: a person has accepted what the stream has lost.
  const expected = saved.heads.filter(({ entry }) => entry !== '0-0')
  const heads = new Map(expected.map(({ key, entry }) => [key, entry]))
  const gone = missing.filter((key) => heads.has(key) && !recorded.has(key))
  const behind = streams.filter(({ key, last }) => !recorded.has(key) && compareIds(last, heads.get(key) ?? '0-0') < 0)
  const lost = [...gone, ...behind.map(({ key }) => key)]
  if (lost.length === 0) return []
  const is = `Redis has lost events of ${namesOf(lost)}: ${gone.length > 0 ? 'deleted, evicted, or' : ''} put back to an earlier state.`
  return [
    finding(
      'stream-lost',
      is.replace(':  ', ': '),
      'outrider incidents list',
      'The relay records a gap when it looks.',
    ),
  ]
}

const namesOf = (keys: readonly string[]): string => {
  const names = [...new Set(keys.map(baseOf))]
  return names.length > 3
    ? `${names.slice(0, 3).join(', ')} and ${plural(names.length - 3, 'more stream')}`
    : names.join(', ')
}
