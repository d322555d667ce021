import type { RedisClient } from '../../redis/client/connect.js'
import { type StreamSurvey, surveyStreams } from '../../redis/streams/survey.js'
import { fieldIn } from '../attempts.js'
import { baseOf } from '../groups.js'
import { findPublishedStreams } from '../redis.js'
import type { OutboxEvent } from './events.js'
import { locate } from './locate.js'

/** For all streams together, in milliseconds. */
const SEARCH_MS = 1_500

/** An event that is known by its entry alone. */
export type Stray = OutboxEvent & { key: string; source: string }

/** Looks for an event by its id in every stream that was published to, until the time is over. */
export async function findStray(client: RedisClient, id: string): Promise<Stray | undefined> {
  const deadline = performance.now() + SEARCH_MS
  const surveys = await surveyStreams(client, await findPublishedStreams(client))
  for (const stream of surveys.filter((found): found is StreamSurvey => typeof found === 'object')) {
    if (performance.now() > deadline) return undefined
    const located = await locate(client, stream, { id, createdAt: undefined }, deadline)
    if (located.entry !== undefined) return strayOf(stream.key, id, located.fields)
  }
  return undefined
}

function strayOf(key: string, id: string, fields: readonly string[]): Stray {
  const value = (name: string) => fieldIn(fields, name)
  const time = Date.parse(value('time') ?? '')
  return {
    ...{ id, key, stream: baseOf(key) },
    type: value('type') ?? '',
    source: value('source') ?? '',
    subject: value('subject'),
    correlationId: value('correlationid'),
    causationId: value('causationid'),
    createdAt: Number.isNaN(time) ? undefined : new Date(time),
    proven: true,
  }
}
