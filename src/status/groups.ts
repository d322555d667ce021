import { compareIds, timeOf } from '../event/entry-id.js'
import type { StreamSurvey } from '../redis/streams/survey.js'
import type { GroupFacts, RedisStatus } from './redis.js'

/** A stream with all of its partitions. */
export interface StreamTotal {
  stream: string
  partitions: StreamSurvey[]
  length: number
  bytes: number | undefined
  /** When its oldest and its newest entry were appended, in milliseconds since 1970. */
  oldest: number | undefined
  newest: number | undefined
  /** The first entry that a group still needs, and why; undefined: none does. */
  floor: { key: string; entry: string; group: string; because: 'unread' | 'pending' } | undefined
}

/** A group in a stream with all of its partitions. Times in milliseconds since 1970. */
export interface GroupTotal {
  group: string
  stream: string
  partitions: GroupFacts[]
  /** Undefined where Redis cannot tell it of one of them. */
  lag: number | undefined
  /** When the first entry that was not delivered was appended. */
  oldestUnread: number | undefined
  pending: number
  /** The partition whose pending entry is the oldest. */
  oldestPending: GroupFacts | undefined
  failing: number
  failingSince: number | undefined
  nextAttempt: number | undefined
  waiting: number
  dead: number
  workers: number
  /** Entries that were trimmed before this group read them. */
  lostUnread: number
}

/** No stream's name has a colon in it. */
export const baseOf = (key: string): string => key.split(':')[0] as string

export function totalStreams({ streams, groups }: RedisStatus): StreamTotal[] {
  const needed = groupBy(groups, ({ stream }) => baseOf(stream))
  return [...groupBy(streams, ({ key }) => baseOf(key))].map(([stream, partitions]) => ({
    ...{ stream, partitions },
    length: sum(partitions.map(({ length }) => length)),
    bytes: sumKnown(partitions.map(({ bytes }) => bytes)),
    oldest: least(partitions.filter(({ length }) => length > 0).map(({ first }) => timeOf(first))),
    newest: greatest(partitions.map(({ last }) => timeOf(last)).filter((time) => time > 0)),
    floor: floorOf(needed.get(stream) ?? []),
  }))
}

/** What is pending was delivered, so it is before what is unread. */
function floorOf(groups: readonly GroupFacts[]): StreamTotal['floor'] {
  const floors = groups.flatMap(({ stream, name, oldestPending, firstUnread }) => {
    const entry = oldestPending?.entry ?? firstUnread
    const because: 'pending' | 'unread' = oldestPending ? 'pending' : 'unread'
    return entry === undefined ? [] : [{ key: stream, entry, group: name, because }]
  })
  return floors.sort((one, other) => timeOf(one.entry) - timeOf(other.entry))[0]
}

export function totalGroups({ streams, groups }: RedisStatus): GroupTotal[] {
  const surveys = new Map(streams.map((survey) => [survey.key, survey]))
  const byName = groupBy(groups, ({ name, stream }) => `${baseOf(stream)} ${name}`)
  return [...byName.values()].map((partitions) => {
    const first = partitions[0] as GroupFacts
    const pending = partitions.filter(({ oldestPending }) => oldestPending)
    const lost = sum(partitions.map((facts) => lostUnread(facts, surveys.get(facts.stream))))
    const lag = sumKnown(partitions.map(({ lag }) => lag))
    const at = (facts: GroupFacts) => timeOf(facts.oldestPending?.entry ?? '0')
    return {
      ...{ group: first.name, stream: baseOf(first.stream), partitions },
      // Redis counts what is gone as well.
      lag: lag === undefined ? undefined : Math.max(0, lag - lost),
      oldestUnread: least(partitions.map(({ firstUnread }) => firstUnread && timeOf(firstUnread))),
      pending: sum(partitions.map(({ pending }) => pending)),
      oldestPending: pending.sort((one, other) => at(one) - at(other))[0],
      failing: sum(partitions.map(({ failing }) => failing)),
      failingSince: least(partitions.map(({ failures }) => failures.since)),
      nextAttempt: least(partitions.map(({ failures }) => failures.next)),
      waiting: sum(partitions.map(({ waiting }) => waiting)),
      dead: sum(partitions.map(({ dead }) => dead)),
      workers: new Set(partitions.flatMap(({ alive }) => alive)).size,
      lostUnread: lost,
    }
  })
}

/**
 * What was removed goes from the start of the stream, so where an entry is left that the group was given, nothing that it
 * was not given is missing. See find-unread.lua.
 */
function lostUnread({ read, lastDelivered }: GroupFacts, survey: StreamSurvey | undefined): number {
  if (!survey || read === undefined || survey.added === undefined || lastDelivered === survey.last) return 0
  if (survey.length > 0 && compareIds(survey.first, lastDelivered) <= 0) return 0
  return Math.max(0, survey.added - survey.length - read)
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const key = keyOf(item)
    const group = groups.get(key)
    if (group) group.push(item)
    else groups.set(key, [item])
  }
  return groups
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0)

const sumKnown = (numbers: readonly (number | undefined)[]): number | undefined =>
  numbers.includes(undefined) ? undefined : sum(numbers as number[])

function least(times: readonly (number | undefined | '')[]): number | undefined {
  const known = times.filter((time) => typeof time === 'number')
  return known.length === 0 ? undefined : Math.min(...known)
}

const greatest = (times: readonly number[]): number | undefined => (times.length === 0 ? undefined : Math.max(...times))
