import type { LeftOut, LeftOutEvent } from '../postgres/setup/adoption.js'
import { closeRedis, connectRedis, type RedisClient } from '../redis/client/connect.js'
import { MAX_ENTRIES, type StreamSearch, searchStream } from '../redis/streams/stream-search.js'
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
/** How long all streams together are looked at, in milliseconds: a person waits for the question. */
const SEARCH_MS = 20_000

/** Looks for the events in their streams, from when the oldest was created. Redis may be away: then nothing is known. */
export async function seekEvents(
  { config }: Pick<Context, 'config'>,
  { events }: LeftOut,
  signal = AbortSignal.timeout(SEARCH_MS),
): Promise<SoughtEvents> {
  const unknown = { events: events.map((event) => ({ ...event, published: null })), searched: [] }
  if (events.length === 0) return unknown
  let client: RedisClient | undefined
  try {
    client = await connectRedis(config.redis, 'outrider-adopt')
    return await seek(client, events, signal)
  } catch (error) {
    return { ...unknown, unreachable: (error as Error).message }
  } finally {
    if (client) closeRedis(client)
  }
}

async function seek(client: RedisClient, events: LeftOutEvent[], signal: AbortSignal): Promise<SoughtEvents> {
  const since = Math.max(0, Math.min(...events.map(({ createdAt }) => createdAt?.getTime() ?? 0)) - CLOCK_SKEW_MS)
  const searches = new Map<string, StreamSearch>()
  for (const key of new Set(events.map(({ stream }) => stream))) {
    if (key === null) continue
    const ids = new Set(events.flatMap(({ id, stream }) => (stream === key ? [id] : [])))
    searches.set(key, await searchStream(client, key, ids, since, signal))
  }
  return {
    events: events.map((event) => {
      const search = event.stream === null ? undefined : searches.get(event.stream)
      return { ...event, published: search?.found.has(event.id) || (search?.complete ? false : null) }
    }),
    searched: [...searches.values()].map(({ found, ...rest }) => rest),
  }
}

/** Lines of a person's list. */
const MAX_SHOWN = 20

function describeCut(cut: SoughtEvents['searched']): string {
  const shown = cut.slice(0, MAX_SHOWN).map(({ key, entries }) => `${key} (${entries} entries)`)
  return [...shown, ...(cut.length > MAX_SHOWN ? [`and ${cut.length - MAX_SHOWN} more streams`] : [])].join(', ')
}

export function describeSought({ events, searched, unreachable }: SoughtEvents, rows: number): string {
  const missing = events.filter(({ published }) => published !== true)
  const entries = searched.reduce((sum, each) => sum + each.entries, 0)
  const cut = searched.filter(({ complete }) => !complete)
  const looked = unreachable
    ? `Redis was not looked at: ${unreachable}`
    : `In Redis: ${events.length - missing.length} of ${events.length} were found in ${searched.length === 1 ? 'their stream' : `their ${searched.length} streams`} (${entries} entries looked at), ` +
      `${missing.length} were not.`
  const hidden = missing.length - MAX_SHOWN
  return [
    looked,
    ...(cut.length > 0
      ? [
          `  Searched in part, within ${SEARCH_MS / 1000} s and ${MAX_ENTRIES} entries a stream: ${describeCut(cut)}. ` +
            'An event that is unknown may be among older entries: look it up before you answer.',
        ]
      : []),
    ...missing
      .slice(0, MAX_SHOWN)
      .map(
        ({ id, stream, createdAt, published }) =>
          `  ${published === null ? 'unknown   ' : 'not found '} ${id}  stream ${stream ?? 'of no name'}${createdAt ? `, created ${createdAt.toISOString()}` : ''}`,
      ),
    ...(hidden > 0 ? [`  and ${hidden} more: --json lists them`] : []),
    ...(rows > events.length ? [`  Only the oldest ${events.length} of ${rows} rows were looked for.`] : []),
  ].join('\n')
}
