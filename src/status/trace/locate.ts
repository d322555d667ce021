import { timeOf } from '../../event/entry-id.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { idOf } from '../../redis/streams/await-entry.js'
import type { StreamSurvey } from '../../redis/streams/survey.js'
import { fieldIn } from '../attempts.js'

/** Where an entry is, or how far it was looked for. */
export type Located =
  | { entry: string; fields: readonly string[] }
  /** `complete`: every entry of the stream was looked at. */
  | { entry: undefined; complete: boolean; looked: number }

/** Clocks and transactions may differ by so much, in milliseconds. */
const SLACK_MS = 2_000
const PAGE_BYTES = 2_097_152
const MAX_PAGE = 1_000
const UUID_V7 = /^([0-9a-f]{8})-([0-9a-f]{4})-7/i

/**
 * Looks for an event in a stream. Entries are in the order of commits, which is nearly that of the times in their events:
 * a binary search by these finds the place, and pages from there on find the entry, then those before it, until the
 * deadline (of `performance.now()`). An entry that was put back is far from there, and found only by the pages.
 */
export async function locate(
  client: RedisClient,
  stream: StreamSurvey,
  event: { id: string; createdAt: Date | undefined },
  deadline: number,
): Promise<Located> {
  if (stream.length === 0) return { entry: undefined, complete: true, looked: 0 }
  const at = timeIn(event.id) ?? event.createdAt?.getTime()
  const start = at === undefined ? timeOf(stream.first) : await placeOf(client, stream, at - SLACK_MS)
  const size = (stream.bytes ?? 0) / stream.length
  const page = Math.max(10, Math.min(MAX_PAGE, size > 0 ? Math.floor(PAGE_BYTES / size) : 100))
  const forward = await scan(client, stream.key, event.id, { from: String(start), to: '+', page, deadline })
  if (forward.entry !== undefined || !forward.complete || start <= timeOf(stream.first)) return forward
  const backward = await scan(client, stream.key, event.id, { from: '-', to: `(${start}-0`, page, deadline })
  return backward.entry !== undefined ? backward : { ...backward, looked: forward.looked + backward.looked }
}

/** The first millisecond from which on entries tell of events of this time or later. */
async function placeOf(client: RedisClient, { key, first, last }: StreamSurvey, at: number): Promise<number> {
  let [low, high] = [timeOf(first), timeOf(last)]
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const [entry] = await client.xrange(key, String(middle), '+', 'COUNT', 1)
    if (entry && eventTime(entry[1], entry[0]) < at) low = Math.max(middle, timeOf(entry[0])) + 1
    else high = middle
  }
  return low
}

interface Range {
  from: string
  to: string
  page: number
  deadline: number
}

async function scan(
  client: RedisClient,
  key: string,
  id: string,
  { from, to, page, deadline }: Range,
): Promise<Located> {
  let looked = 0
  for (let next = from; ; ) {
    const entries = await client.xrange(key, next, to, 'COUNT', page)
    const found = entries.find(([, fields]) => idOf(fields) === id)
    if (found) return { entry: found[0], fields: found[1] }
    looked += entries.length
    if (entries.length < page) return { entry: undefined, complete: true, looked }
    if (performance.now() > deadline) return { entry: undefined, complete: false, looked }
    next = `(${entries.at(-1)?.[0]}`
  }
}

function eventTime(fields: readonly string[], entry: string): number {
  const own = timeIn(fieldIn(fields, 'id') ?? '') ?? Date.parse(fieldIn(fields, 'time') ?? '')
  return Number.isNaN(own) ? timeOf(entry) : own
}

/** When an id of version 7 was made. */
function timeIn(id: string): number | undefined {
  const [, high, low] = UUID_V7.exec(id) ?? []
  return high === undefined ? undefined : Number.parseInt(`${high}${low}`, 16)
}
