import { timeOf } from '../event/entry-id.js'
import { retriesKey, waitingKey } from '../event/names.js'
import type { RedisClient } from '../redis/client/connect.js'
import { idOf } from '../redis/streams/await-entry.js'
import type { GroupSurvey } from '../redis/streams/survey.js'
import { attemptsOf, fieldIn } from './attempts.js'

/** What is known of the entries of a group that take long. */
export interface Failures {
  /** Since when the first of those that fail or wait has failed, in milliseconds since 1970. */
  since: number | undefined
  /** When the next attempt is due. */
  next: number | undefined
  /** Of the first that waits: Redis has no error of an entry that is pending. */
  error: string | undefined
  /** The event of the oldest pending entry, and whether it has failed; undefined where it is not long ago. */
  oldestPending: { event: string | undefined; failed: boolean } | undefined
}

export const NO_FAILURES: Failures = { since: undefined, next: undefined, error: undefined, oldestPending: undefined }

/** An entry that is pending for longer, in milliseconds, is looked at. */
const LONG_PENDING_MS = 60_000
/** Entries of the hash of failed attempts that are read. */
const MAX_RETRIES_READ = 500

export const needsFailures = (group: GroupSurvey, now: number): boolean =>
  group.failing + group.waiting > 0 || isLong(group, now)

const isLong = ({ oldestPending }: GroupSurvey, now: number): boolean =>
  oldestPending !== undefined && now - timeOf(oldestPending.entry) > LONG_PENDING_MS

export async function readFailures(
  client: RedisClient,
  stream: string,
  group: GroupSurvey & { name: string },
  now: number,
): Promise<Failures> {
  const { name, nextDue, oldestPending } = group
  const retries = retriesKey(stream, name)
  const attempts = group.failing > 0 ? await readAttempts(client, retries) : []
  const waiting = group.waiting > 0 ? await client.xrange(waitingKey(stream, name), '-', '+', 'COUNT', 1) : []
  const first = waiting[0]?.[1] ?? []
  const waitingSince = Number(fieldIn(first, 'waiting-since') ?? 0) || undefined
  return {
    since: least([...attempts.map(({ failingSince }) => failingSince), waitingSince]),
    next: least([...attempts.map(({ due }) => due), nextDue]),
    error: fieldIn(first, 'waiting-error'),
    oldestPending:
      oldestPending && isLong(group, now)
        ? {
            event: await eventOf(client, stream, oldestPending.entry),
            failed: (await client.hget(retries, oldestPending.entry)) !== null,
          }
        : undefined,
  }
}

async function readAttempts(client: RedisClient, key: string) {
  const [, flat] = await client.hscan(key, 0, 'COUNT', MAX_RETRIES_READ)
  return flat.filter((_, n) => n % 2 === 1).map(attemptsOf)
}

async function eventOf(client: RedisClient, stream: string, id: string): Promise<string | undefined> {
  const [entry] = await client.xrange(stream, id, id)
  return entry && idOf(entry[1])
}

function least(times: (number | undefined)[]): number | undefined {
  const known = times.filter((time) => time !== undefined)
  return known.length === 0 ? undefined : Math.min(...known)
}
