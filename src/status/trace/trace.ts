import { OutriderError } from '../../base/failure.js'
import type { Config } from '../../config/schema.js'
import { streamKey } from '../../event/names.js'
import { partitionOf } from '../../event/partition.js'
import { storedLineage } from '../../postgres/state/lineage.js'
import { readPartitions } from '../../postgres/state/partitions.js'
import { closeRedis, connectRedis, type RedisClient } from '../../redis/client/connect.js'
import { type StreamSurvey, surveyStreams } from '../../redis/streams/survey.js'
import { type Asked, answerOf, ask } from '../asked.js'
import { type InboxPlace, inboxPlaces } from '../inboxes.js'
import { withReader } from '../postgres.js'
import { type EventSearch, findEvents, findRejections, type OutboxEvent, type SearchKey } from './events.js'
import { type InboxAnswer, readInboxRows } from './inbox-rows.js'
import { locate } from './locate.js'
import { appendedAt, type Outcome, outcomeOf } from './outcomes.js'
import { findStray } from './stray.js'

/** An event on its way. */
export interface Trace extends OutboxEvent {
  /** The stream's key. */
  key: string
  rejected: { incident: string; reason: string; at: Date } | undefined
  /**
   * `entry`: it is in its stream. `trimmed`: it was, as a checkpoint or a group proves. `not-yet`: every entry was looked at.
   * `unknown`: Redis was not asked, or the stream is too long to look at all of it in time.
   */
  published: { state: 'entry'; entry: string; at: Date } | { state: 'trimmed' | 'not-yet' | 'unknown' }
  groups: { group: string; done: { at: Date; place: string } | undefined; outcome: Outcome | undefined }[]
}

export interface TraceResult {
  search: Asked<EventSearch | undefined>
  redis: Asked<true>
  traces: Trace[]
  inbox: Pick<InboxAnswer, 'asked' | 'problems'>
  /** It was found in a stream, and its row was not. */
  outsideOutbox: boolean
}

export interface FindOptions {
  config: Config
  term: string
  keys: readonly SearchKey[]
  inboxes: readonly string[]
  sinceMs: number
}

/** For all events of one search, in milliseconds: one is found within a second. */
const ONE_MS = 500
const ALL_MS = 5_000

interface Rows {
  search: EventSearch | undefined
  source: string
  partitions: Record<string, number>
  rejections: Awaited<ReturnType<typeof findRejections>>
}

export async function findTraces({ config, term, keys, inboxes, sinceMs }: FindOptions): Promise<TraceResult> {
  const connecting = ask('Redis', () => connectRedis(config.redis, 'outrider-find'))
  const rows = await ask('Postgres', () => readRows(config, term, keys, sinceMs))
  const client = await connecting
  try {
    const found = answerOf(rows)
    const redis = answerOf(client)
    const named = (found?.search?.events ?? []).map((event) => ({
      ...event,
      key: keyOf(event, found?.partitions ?? {}),
    }))
    // Postgres is down, or the outbox does not have the row any more.
    const strays =
      named.length === 0 && keys.includes('id') && redis ? await ask('Redis', () => findStray(redis, term)) : undefined
    const stray = strays && answerOf(strays)
    const events = stray ? [stray] : named
    const places = inboxPlaces(config.postgres, inboxes) as [InboxPlace, ...InboxPlace[]]
    const inbox = await readInboxRows(found ? places : places.slice(1), stray?.source ?? found?.source ?? '', events)
    const looked = redis ? await ask('Redis', () => look(redis, events)) : (client as { failure: OutriderError })
    const traces = events.map((event, n) =>
      traceOf(event, answerOf(looked)?.[n], found?.rejections.get(event.id), inbox),
    )
    return {
      search: found ? { value: found.search } : (rows as { failure: OutriderError }),
      redis: 'failure' in looked ? looked : { value: true },
      ...{ traces, inbox },
      outsideOutbox: stray !== undefined,
    }
  } finally {
    const redis = answerOf(client)
    if (redis) closeRedis(redis)
  }
}

const readRows = (config: Config, term: string, keys: readonly SearchKey[], sinceMs: number): Promise<Rows> =>
  withReader(config.postgres, 'outrider find', async (client) => {
    const lineage = await storedLineage(client, config.slot)
    if (!lineage)
      throw new OutriderError(`Expected a lineage for slot ${config.slot}, found none. Run \`outrider setup\`.`)
    const search = await findEvents(client, config, term, keys, lineage.lineage, sinceMs)
    const ids = search.events.map(({ id }) => id)
    return {
      ...{ search, source: lineage.source },
      partitions: await readPartitions(client),
      rejections: await findRejections(client, lineage.lineage, ids),
    }
  })

function keyOf({ stream, subject, id }: OutboxEvent, partitions: Record<string, number>): string {
  const count = Object.hasOwn(partitions, stream) ? partitions[stream] : undefined
  return count ? streamKey(stream, partitionOf(subject ?? id, count)) : stream
}

interface Looked {
  entry: string | undefined
  complete: boolean
  outcomes: Map<string, Outcome>
}

async function look(client: RedisClient, events: readonly (OutboxEvent & { key: string })[]): Promise<Looked[]> {
  const until = performance.now() + (events.length === 1 ? ONE_MS : ALL_MS)
  const keys = [...new Set(events.map(({ key }) => key))]
  const surveys = new Map((await surveyStreams(client, keys)).map((survey, n) => [keys[n] as string, survey]))
  const found: Looked[] = []
  for (const [n, event] of events.entries()) {
    // The time that is left is shared by those that are left.
    const deadline = performance.now() + Math.max(20, (until - performance.now()) / (events.length - n))
    found.push(await lookFor(client, surveys.get(event.key), event, deadline))
  }
  return found
}

async function lookFor(
  client: RedisClient,
  stream: StreamSurvey | string | undefined,
  event: OutboxEvent,
  deadline: number,
): Promise<Looked> {
  const outcomes = new Map<string, Outcome>()
  if (typeof stream !== 'object') return { entry: undefined, complete: stream === undefined, outcomes }
  const located = await locate(client, stream, event, deadline)
  const { entry } = located
  const appended = appendedAt(entry, event.createdAt)
  await Promise.all(
    stream.groups.map(async (group) => {
      const of = { id: event.id, entry, appended }
      outcomes.set(group.name, await outcomeOf(client, stream.key, group, of, deadline + ONE_MS / 2).catch(refused))
    }),
  )
  return { entry, complete: entry !== undefined || ('complete' in located && located.complete), outcomes }
}

function refused(error: Error): Outcome {
  if (error.name !== 'ReplyError') throw error
  return { state: 'unknown', why: error.message }
}

function traceOf(
  event: OutboxEvent & { key: string },
  looked: Looked | undefined,
  rejected: Trace['rejected'],
  { done, subscribed }: InboxAnswer,
): Trace {
  const ofEvent = [...done].flatMap(([key, row]) =>
    key.startsWith(`${event.id} `) ? [[key.slice(event.id.length + 1), row] as const] : [],
  )
  const rows = new Map(ofEvent)
  const names = new Set([...(looked?.outcomes.keys() ?? []), ...(subscribed.get(event.key) ?? []), ...rows.keys()])
  const groups = [...names]
    .sort()
    .map((group) => ({ group, done: rows.get(group), outcome: looked?.outcomes.get(group) }))
  const wasThere = event.proven || groups.some(({ done, outcome }) => done || isLater(outcome))
  return { ...event, rejected, published: publishedOf(looked, wasThere), groups }
}

/** What only happens to an event that was published. */
const isLater = (outcome: Outcome | undefined): boolean =>
  outcome?.state === 'dead-lettered' || outcome?.state === 'waiting'

function publishedOf(looked: Looked | undefined, wasThere: boolean): Trace['published'] {
  if (looked?.entry !== undefined) {
    return { state: 'entry', entry: looked.entry, at: new Date(Number.parseInt(looked.entry, 10)) }
  }
  if (!looked?.complete) return { state: 'unknown' }
  return { state: wasThere ? 'trimmed' : 'not-yet' }
}
