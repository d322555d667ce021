import { pause } from '../../base/backoff.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Wanted } from '../../redis/streams/group-replies.js'
import type { Worker } from '../delivery/worker.js'
import { type ReconnectingClient, StoppedError } from '../redis/reconnecting-client.js'

export interface ClaimerParts {
  worker: Pick<Worker, 'adopt' | 'blocked' | 'changed'>
  link: ReconnectingClient
  groups(): readonly ConsumerGroup[]
  /** Room for entries that other workers have left in this stream. New entries do not take it up. */
  wanted(stream: string): Wanted
  /** The same of all handlers together. */
  room(stream: string): number
  /** Milliseconds. */
  claimAfter: number
  signal: AbortSignal
}

/** The longest time between two rounds is 5 s: a quarter is added at most. */
const MAX_BETWEEN_ROUNDS_MS = 4_000
const PAGE = 100

/** What is left of a round in one stream. */
interface Walk {
  group: ConsumerGroup
  /** Where the next page begins; undefined: all was looked at. */
  from: string | undefined
  /** The only handlers, by their place, whose entries are looked for; undefined: all. */
  places: readonly number[] | undefined
  /** What was left behind for lack of room: the first entry, and its handlers. */
  skipped: { from: string; places: readonly number[] } | undefined
}

/**
 * Claims what no worker has touched for `claimAfter`, in rounds. A round takes one page of each stream in turn until all are empty:
 * where there is no room for the next page, or for some of its events, it waits for room, until the next round begins.
 *
 * It does not compete with the reader: what was left has room of its own, and begins before what is new (see Schedule). So under
 * any backlog the oldest entry that was left begins within `claimAfter`, 5 s, and the time of one handler call.
 */
export async function claimPending(parts: ClaimerParts): Promise<void> {
  const { worker, groups, claimAfter, signal } = parts
  const between = Math.min(claimAfter / 4, MAX_BETWEEN_ROUNDS_MS)
  // Not all workers at once.
  const next = () => performance.now() + between * (0.75 + Math.random() / 2)
  let due = next()
  let walks: Walk[] = []
  while (!signal.aborted) {
    const left = due - performance.now()
    if (left > 0 && (worker.blocked || !walks.some((walk) => nextOf(parts, walk)))) {
      if (walks.length > 0) await worker.changed(left)
      else await pause(left, signal)
      continue
    }
    if (left <= 0) {
      walks = groups().map((group) => ({ group, from: '-', places: undefined, skipped: undefined }))
      due = next()
    }
    walks = worker.blocked ? [] : await claimPages(parts, walks)
  }
}

/** What is lacking of what a page of this walk may bring. */
function wantedOf({ wanted }: ClaimerParts, { group: { stream }, places }: Walk): Wanted {
  const all = wanted(stream)
  return { ...all, lacks: all.lacks.map((each, place) => (places && !places.includes(place) ? 0 : each)) }
}

/** Its next page; undefined while there is no room for it. */
function nextOf(parts: ClaimerParts, walk: Walk): (Walk & { from: string }) | undefined {
  if (parts.room(walk.group.stream) <= 0) return undefined
  const { group, from, skipped } = walk
  // All was looked at: again from what was left behind.
  const next =
    from === undefined && skipped
      ? { group, from: skipped.from, places: skipped.places, skipped: undefined }
      : { ...walk, from: from ?? '-' }
  return wantedOf(parts, next).lacks.some((lacks) => lacks > 0) ? next : undefined
}

/** A page of each that has room; those that may have more. */
async function claimPages(parts: ClaimerParts, walks: readonly Walk[]): Promise<Walk[]> {
  const { worker, link, room, claimAfter, signal } = parts
  const unfinished: Walk[] = []
  for (const walk of walks) {
    if (signal.aborted) return []
    const next = nextOf(parts, walk)
    if (!next) {
      unfinished.push(walk)
      continue
    }
    const { group, from, places } = next
    const most = Math.min(room(group.stream), PAGE)
    const claimed = await link
      .requestOnce((client) => group.claim(client, claimAfter, most, from, wantedOf(parts, next)))
      .catch(unlessStopped)
    if (!claimed) continue
    worker.adopt(group, claimed.taken)
    const both = [next.skipped, claimed.skipped].flatMap((each) => each ?? [])
    const skipped = both[0] && { from: both[0].from, places: [...new Set(both.flatMap((each) => each.places))] }
    if (claimed.next !== undefined || skipped) unfinished.push({ group, from: claimed.next, places, skipped })
  }
  return unfinished
}

/** One stream that refuses must not hold up the others; it is asked again in the next round. */
function unlessStopped(error: unknown): undefined {
  if (error instanceof StoppedError) throw error
}
