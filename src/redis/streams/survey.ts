import { Cluster } from 'ioredis'
import { batchesOf } from '../../base/in-batches.js'
import { deadKey, retriesKey, waitingDueKey, waitingKey } from '../../event/names.js'
import type { RedisClient } from '../client/connect.js'
import { classifyRedis } from '../client/errors.js'
import { Script } from '../scripts/script.js'

/** A stream and its groups as they stand. An id is `0-0` where there is no entry. */
export interface StreamSurvey {
  key: string
  length: number
  /** Ever; undefined before Redis 7. */
  added: number | undefined
  first: string
  last: string
  /** In memory; undefined where MEMORY USAGE is not permitted. */
  bytes: number | undefined
  groups: GroupPosition[]
}

/** What Redis itself knows of a group. */
export interface GroupPosition {
  name: string
  consumers: number
  pending: number
  lastDelivered: string
  /** Undefined where Redis cannot tell. */
  read: number | undefined
  /** Entries that were not delivered yet; undefined where Redis cannot tell. */
  lag: number | undefined
}

/** What Outrider keeps of a group beside its stream. */
export interface GroupSurvey {
  /** The first entry that was not delivered; undefined: all were. */
  firstUnread: string | undefined
  oldestPending: { entry: string; consumer: string; idleMs: number } | undefined
  /** Entries whose last attempt failed and that are pending. */
  failing: number
  /** Entries in the waiting stream. */
  waiting: number
  /** When the next attempt of what waits is due, in milliseconds since 1970. */
  nextDue: number | undefined
  dead: number
  /** Names of workers that were heard within `ALIVE_MS`; 1,000 at most. */
  alive: string[]
}

/** A worker reads or renews its entries every few seconds. */
export const ALIVE_MS = 60_000

/** Streams of one call: a script keeps all others waiting. */
const STREAMS_AT_ONCE = 20
const GROUPS_AT_ONCE = 20
const CALLS_AT_ONCE = 50

const streams = new Script('survey-streams.lua')
const groups = new Script('survey-groups.lua')

/** Reads each stream, in the order of the keys: undefined where it is missing, a text where Redis refuses, or its node is away. */
export async function surveyStreams(
  client: RedisClient,
  keys: readonly string[],
): Promise<(StreamSurvey | string | undefined)[]> {
  const calls = [...batchesOf(keys, sizeFor(client, STREAMS_AT_ONCE))]
  return inOrder(client, calls, async (batch): Promise<(StreamSurvey | string | undefined)[]> => {
    const reply = (await streams.call(client, batch, [])) as (StreamReply | string)[]
    return reply.map((found, n) => (typeof found === 'string' ? found : streamOf(batch[n] as string, found)))
  })
}

/** Reads each group, in order: a text where Redis refuses, its node is away, or the group is gone. */
export async function surveyGroups(
  client: RedisClient,
  named: readonly { stream: string; group: string; lastDelivered: string }[],
): Promise<(GroupSurvey | string)[]> {
  const calls = [...batchesOf(named, sizeFor(client, GROUPS_AT_ONCE))]
  return inOrder(client, calls, async (batch): Promise<(GroupSurvey | string)[]> => {
    const keys = batch.flatMap(({ stream, group }) =>
      [stream].concat([retriesKey, waitingKey, waitingDueKey, deadKey].map((key) => key(stream, group))),
    )
    const args = batch.flatMap(({ group, lastDelivered }) => [group, lastDelivered])
    const reply = await groups.call(client, keys, [String(ALIVE_MS), ...args])
    return (reply as (GroupReply | string)[]).map((found) => (typeof found === 'string' ? found : groupOf(found)))
  })
}

/** The streams of one call must be in one slot of a cluster. */
const sizeFor = (client: RedisClient, size: number): number => (client instanceof Cluster ? 1 : size)

async function inOrder<T, R>(
  client: RedisClient,
  batches: readonly (readonly T[])[],
  call: (batch: readonly T[]) => Promise<R[]>,
): Promise<(R | string)[]> {
  const replies: (R | string)[] = []
  for (const some of batchesOf(batches, CALLS_AT_ONCE)) {
    replies.push(...(await Promise.all(some.map((batch) => orWhy(client, batch, call)))).flat())
  }
  return replies
}

/** A key that an ACL forbids has the whole call refused: the others are then called one by one. Of a cluster a node may be away. */
async function orWhy<T, R>(
  client: RedisClient,
  batch: readonly T[],
  call: (batch: readonly T[]) => Promise<R[]>,
): Promise<(R | string)[]> {
  try {
    return await call(batch)
  } catch (error) {
    const { name, message } = error as Error
    if (name !== 'ReplyError' && !(client instanceof Cluster && isAway(message))) throw error
    if (batch.length === 1) return [message]
    return (await Promise.all(batch.map((item) => orWhy(client, [item], call)))).flat()
  }
}

const isAway = (message: string): boolean =>
  ['redis_timeout', 'redis_unreachable'].includes(classifyRedis(message).reason)

type StreamReply = [] | [number, number, string, string, number, ...PositionReply[]]
type PositionReply = [string, number, number, string, number, number]

const known = (value: number): number | undefined => (value < 0 ? undefined : value)

const isMissing = (reply: StreamReply): reply is [] => reply.length === 0

function streamOf(key: string, reply: StreamReply): StreamSurvey | undefined {
  if (isMissing(reply)) return undefined
  const [length, added, first, last, bytes, ...positions] = reply
  return {
    ...{ key, length, added: known(added), first, last, bytes: known(bytes) },
    groups: positions.map(([name, consumers, pending, lastDelivered, read, lag]) => ({
      ...{ name, consumers, pending, lastDelivered },
      read: known(read),
      // Redis before 7 does not tell it; where all is delivered it is known all the same.
      lag: lastDelivered === last ? 0 : known(lag),
    })),
  }
}

type GroupReply = [string, string, string, number, number, number, string, number, string[]]

function groupOf([unread, entry, consumer, idleMs, failing, waiting, due, dead, alive]: GroupReply): GroupSurvey {
  return {
    firstUnread: unread || undefined,
    oldestPending: entry === '' ? undefined : { entry, consumer, idleMs },
    ...{ failing, waiting, dead, alive },
    nextDue: due === '' ? undefined : Number(due),
  }
}
