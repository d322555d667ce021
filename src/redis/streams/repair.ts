import type { Head } from '../../event/head.js'
import { headKey } from '../../event/names.js'
import type { Position } from '../../event/position.js'
import type { RedisClient } from '../client/connect.js'
import { Script } from '../scripts/script.js'

const prepareScript = new Script('prepare-repair.lua', 'includes/entry-id.lua')
const endScript = new Script('read-stream-end.lua')
const idsScript = new Script('read-ids.lua')

/** Entries of one call: their payloads are read by the server, and other clients wait meanwhile. */
const ENTRIES_AT_ONCE = 200

/** Makes the scripts known. To be called on every new connection. */
export async function loadRepair(client: RedisClient): Promise<void> {
  await Promise.all([prepareScript.load(client), endScript.load(client), idsScript.load(client)])
}

/** TYPE: the key of the stream holds another type. */
export type PreparedHead = { status: 'OK'; entry: string } | { status: 'MOVED' | 'TYPE' }

/** How far a stream has got: neither falls, unless the stream was deleted. Empty where there is none. */
export interface StreamEnd {
  /** The id of the last entry that was ever added. */
  last: string
  /** How many were ever added; empty where Redis does not count them. */
  added: string
}

/** Rejects with the error of Redis. */
export async function readStreamEnd(client: RedisClient, key: string): Promise<StreamEnd> {
  const [last, added] = (await endScript.call(client, [key], [])) as [string, string]
  return { last, added }
}

/**
 * Rejects with the error of Redis where this user may not write to a stream, or to its head. Writes nothing: the permission is that of
 * a script which names the keys.
 */
export async function verifyWritable(client: RedisClient, key: string, lineage: string): Promise<void> {
  await endScript.call(client, [key, headKey(key, lineage)], [])
}

/**
 * Moves the head of a stream to a place, for `session`, unless it is another one than was `found` (an empty session: none), or the
 * stream has lost entries since it was at `found.end`. Rejects with the error of Redis.
 */
export async function prepareRepair(
  client: RedisClient,
  stream: { key: string; lineage: string; session: string },
  found: { session: string; head: Head; end: StreamEnd },
  place: Position,
): Promise<PreparedHead> {
  const { key, lineage, session } = stream
  const [status, entry] = (await prepareScript.call(
    client,
    [key, headKey(key, lineage)],
    [session, found.session, found.head.position, found.head.entry, place, found.end.last, found.end.added],
  )) as ['OK' | 'MOVED' | 'TYPE', string]
  return status === 'OK' ? { status, entry } : { status }
}

/**
 * The ids of a stream's events that have this source, in pages, from the entry `first` on. None where there is no such stream.
 */
export async function* readEventIds(
  client: RedisClient,
  key: string,
  source: string,
  first = '-',
): AsyncGenerator<string[]> {
  for (let from: string | undefined = first; from !== undefined; ) {
    const page: EventIds = await readEventIdPage(client, key, source, from)
    yield page.ids
    from = page.last && `(${page.last}`
  }
}

export interface EventIds {
  ids: string[]
  /** The last entry that was read; undefined: there is none behind it. */
  last: string | undefined
}

/** One page of them, from the entry `from` on; with `(` before it, from behind it. */
export async function readEventIdPage(
  client: RedisClient,
  key: string,
  source: string,
  from: string,
): Promise<EventIds> {
  const reply = await idsScript.call(client, [key], [source, from, String(ENTRIES_AT_ONCE)])
  const [last, ...ids] = reply as [string, ...string[]]
  return { ids, last: last || undefined }
}
