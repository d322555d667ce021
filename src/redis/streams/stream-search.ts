import type { RedisClient } from '../client/connect.js'
import { idOf } from './await-entry.js'

/** What was looked at of one stream. */
export interface StreamSearch {
  key: string
  found: Set<string>
  entries: number
  /** False: the stream has older entries than those that were looked at. */
  complete: boolean
}

const PAGE = 1_000
/** Entries of one stream that are looked at. */
export const MAX_ENTRIES = 100_000

/**
 * Looks for events by their ids among the entries that were appended since `since`, in milliseconds of the clock of Redis,
 * the newest first. Ends when the signal says so.
 */
export async function searchStream(
  client: RedisClient,
  key: string,
  ids: ReadonlySet<string>,
  since: number,
  signal: AbortSignal,
): Promise<StreamSearch> {
  const found = new Set<string>()
  let entries = 0
  for (let before = '+'; entries < MAX_ENTRIES && !signal.aborted; ) {
    const page = await client.xrevrange(key, before, since, 'COUNT', PAGE)
    entries += page.length
    for (const [, fields] of page) {
      const id = idOf(fields)
      if (id !== undefined && ids.has(id)) found.add(id)
    }
    if (page.length < PAGE || found.size === ids.size) return { key, found, entries, complete: true }
    before = `(${page.at(-1)?.[0]}`
  }
  return { key, found, entries, complete: false }
}
