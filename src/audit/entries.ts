import { isRepairPlace, POSITION, parsePosition } from '../event/position.js'
import type { Lsn } from '../postgres/client/lsn.js'
import type { RedisClient } from '../redis/client/connect.js'
import { comparable } from './digest.js'

/** What Redis says of a stream before its entries are read. */
export interface StreamFacts {
  length: number
  /** Entries that were added and are not there any more; undefined where Redis does not count (before 7.0). */
  removed: number | undefined
  /** The highest id that XDEL removed; `0-0`: none. Trimming leaves no such mark. */
  deleted: string
  first: string | undefined
  last: string
}

/** An entry of the lineage's source. */
export interface AuditedEntry {
  /** Its id in the stream. */
  entry: string
  id: string
  /** All of its fields; long values as their hashes. */
  fields: Record<string, string>
}

/** Undefined: there is no such stream. */
export async function readFacts(client: RedisClient, key: string): Promise<StreamFacts | undefined> {
  try {
    const flat = (await client.xinfo('STREAM', key)) as unknown[]
    const info = (name: string) => flat[flat.indexOf(name) + 1]
    const counts = flat.includes('entries-added')
    const length = Number(info('length'))
    return {
      length,
      removed: counts ? Number(info('entries-added')) - length : undefined,
      deleted: flat.includes('max-deleted-entry-id') ? String(info('max-deleted-entry-id')) : '0-0',
      first: length > 0 ? String((info('first-entry') as unknown[])[0]) : undefined,
      last: String(info('last-generated-id')),
    }
  } catch (error) {
    if (/no such key/i.test((error as Error).message)) return undefined
    throw error
  }
}

/** When Redis added it, in milliseconds. */
export const addedAt = (entry: string): number => Number(entry.slice(0, entry.indexOf('-')))

/** What a page may come to, in characters; a single entry may be larger. */
const MAX_PAGE_SIZE = 1_048_576
const MAX_PAGE = 1_000

/** The entries from `from` to `to`, ids of Redis or milliseconds, in pages of which one is held at a time. */
export async function* readPages(
  client: RedisClient,
  key: string,
  from: string,
  to: string,
): AsyncGenerator<[entry: string, fields: string[]][]> {
  let count = 10
  for (let start = from; ; ) {
    const page = await client.xrange(key, start, to, 'COUNT', count)
    if (page.length > 0) yield page
    if (page.length < count) return
    start = `(${page.at(-1)?.[0]}`
    const size = page.reduce((sum, [, fields]) => sum + fields.reduce((all, text) => all + text.length, 0), 0)
    count = Math.min(MAX_PAGE, Math.max(1, Math.floor((MAX_PAGE_SIZE * page.length) / size)))
  }
}

/** Undefined where it is not an event of this source. */
export function auditedEntryOf(
  [entry, flat]: [entry: string, fields: string[]],
  source: string,
): AuditedEntry | undefined {
  const fields: Record<string, string> = Object.create(null)
  for (let i = 0; i + 1 < flat.length; i += 2) fields[flat[i] as string] = comparable(flat[i + 1] as string)
  if (fields.source !== source || fields.id === undefined) return undefined
  return { entry, id: fields.id, fields }
}

const FIRST_ENTRIES = 100

/**
 * The LSN of the first event of this source that says where it stands in the WAL, among the first entries. One that was put
 * back by a repair does not.
 */
export async function firstLsn(client: RedisClient, key: string, source: string): Promise<Lsn | undefined> {
  for (const entry of await client.xrange(key, '-', '+', 'COUNT', FIRST_ENTRIES)) {
    const sequence = auditedEntryOf(entry, source)?.fields.sequence
    if (sequence === undefined || !POSITION.test(sequence)) continue
    if (!isRepairPlace(sequence)) return parsePosition(sequence).lsn
  }
  return undefined
}
