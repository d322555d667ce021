import { pause } from '../../backoff.js'
import type { Group } from '../../redis/group.js'
import { type Link, StoppedError } from '../link.js'
import type { Worker } from '../worker.js'

export interface ClaimerParts {
  worker: Pick<Worker, 'adopt' | 'blocked' | 'changed'>
  link: Link
  groups(): readonly Group[]
  /** Room for so many entries that other workers have left in this stream. New entries do not take it up. */
  room(stream: string): number
  /** Milliseconds. */
  claimAfter: number
  signal: AbortSignal
}

/** The longest time between two rounds is 5 s: a quarter is added at most. */
const MAX_BETWEEN_ROUNDS_MS = 4_000
const PAGE = 100

/**
 * Claims what no worker has touched for `claimAfter`, in rounds. A round takes one page of each stream in turn until all are empty:
 * where there is no room for the next page, it waits for room, until the next round begins.
 *
 * It does not compete with the reader: what was left has room of its own, and begins before what is new (see Schedule). So under
 * any backlog the oldest entry that was left begins within `claimAfter`, 5 s, and the time of one handler call.
 */
export async function claimPending(parts: ClaimerParts): Promise<void> {
  const { worker, groups, room, claimAfter, signal } = parts
  const between = Math.min(claimAfter / 4, MAX_BETWEEN_ROUNDS_MS)
  // Not all workers at once.
  const next = () => performance.now() + between * (0.75 + Math.random() / 2)
  let due = next()
  let unfinished: readonly Group[] = []
  while (!signal.aborted) {
    const hasRoom = unfinished.some(({ stream }) => room(stream) > 0)
    const left = due - performance.now()
    if (left > 0 && (worker.blocked || !hasRoom)) {
      if (unfinished.length > 0) await worker.changed(left)
      else await pause(left, signal)
      continue
    }
    if (left <= 0) {
      unfinished = groups()
      due = next()
    }
    unfinished = worker.blocked ? [] : await claimPages(parts, unfinished)
  }
}

/** A page of each; those that may have more. */
async function claimPages({ worker, link, room, claimAfter, signal }: ClaimerParts, groups: readonly Group[]) {
  const unfinished: Group[] = []
  for (const group of groups) {
    const most = Math.min(room(group.stream), PAGE)
    if (signal.aborted) return []
    if (most <= 0) {
      unfinished.push(group)
      continue
    }
    const taken = await link.once((client) => group.claim(client, claimAfter, most)).catch(unlessStopped)
    if (!taken) continue
    worker.adopt(group, taken)
    if (taken.length === most) unfinished.push(group)
  }
  return unfinished
}

/** One stream that refuses must not hold up the others; it is asked again in the next round. */
function unlessStopped(error: unknown): undefined {
  if (error instanceof StoppedError) throw error
}
