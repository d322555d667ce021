import type { LeftOut, LeftOutEvent } from '../postgres/adoption.js'
import { closeRedis, connectRedis, type RedisClient } from '../redis/connect.js'
import { type StreamSearch, searchStream } from '../redis/stream-search.js'
import type { Context } from './command.js'

/** Events that a new lineage leaves out, and what Redis says of each. */
export interface SoughtEvents {
  /** `published`: null where it was not looked for, or not among all entries. */
  events: (LeftOutEvent & { published: boolean | null })[]
  searched: Omit<StreamSearch, 'found'>[]
  /** Why Redis was not looked at. */
  unreachable?: string
}

/** The clocks of Postgres and Redis may differ by so much, in milliseconds. */
const CLOCK_SKEW_MS = 60_000

/** Looks for the events in their streams, from when the oldest was created. Redis may be away: then nothing is known. */
export async function seekEvents({ config }: Context, { events }: LeftOut): Promise<SoughtEvents> {
  const unknown = { events: events.map((event) => ({ ...event, published: null })), searched: [] }
  if (events.length === 0) return unknown
  let client: RedisClient | undefined
  try {
    client = await connectRedis(config.redis, 'outrider-adopt')
    return await seek(client, events)
  } catch (error) {
    return { ...unknown, unreachable: (error as Error).message }
  } finally {
    if (client) closeRedis(client)
  }
}

async function seek(client: RedisClient, events: LeftOutEvent[]): Promise<SoughtEvents> {
  const since = Math.max(0, Math.min(...events.map(({ createdAt }) => createdAt.getTime())) - CLOCK_SKEW_MS)
  const searches = new Map<string, StreamSearch>()
  for (const key of new Set(events.map(({ stream }) => stream))) {
    const ids = new Set(events.flatMap(({ id, stream }) => (stream === key ? [id] : [])))
    searches.set(key, await searchStream(client, key, ids, since))
  }
  return {
    events: events.map((event) => {
      const search = searches.get(event.stream)
      return { ...event, published: search?.found.has(event.id) || (search?.complete ? false : null) }
    }),
    searched: [...searches.values()].map(({ found, ...rest }) => rest),
  }
}

/** Lines of a person's list. */
const MAX_SHOWN = 20

export function describeSought({ events, searched, unreachable }: SoughtEvents, rows: number): string {
  const missing = events.filter(({ published }) => published !== true)
  const entries = searched.reduce((sum, each) => sum + each.entries, 0)
  const looked = unreachable
    ? `Redis was not looked at: ${unreachable}`
    : `In Redis: ${events.length - missing.length} of ${events.length} were found in ${searched.length === 1 ? 'their stream' : `their ${searched.length} streams`} (${entries} entries looked at), ` +
      `${missing.length} were not.`
  const hidden = missing.length - MAX_SHOWN
  return [
    looked,
    ...missing
      .slice(0, MAX_SHOWN)
      .map(
        ({ id, stream, createdAt, published }) =>
          `  ${published === null ? 'unknown   ' : 'not found '} ${id}  stream ${stream}, created ${createdAt.toISOString()}`,
      ),
    ...(hidden > 0 ? [`  and ${hidden} more: --json lists them`] : []),
    ...(rows > events.length ? [`  Only the oldest ${events.length} of ${rows} rows were looked for.`] : []),
  ].join('\n')
}
