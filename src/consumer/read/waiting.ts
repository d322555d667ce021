import { pause } from '../../base/backoff.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { Worker } from '../delivery/worker.js'
import type { WaitingState } from '../metrics.js'
import { type ReconnectingClient, StoppedError } from '../redis/reconnecting-client.js'

export interface WaitingParts {
  worker: Worker
  link: ReconnectingClient
  groups(): readonly ConsumerGroup[]
  /** Room for so many entries of this stream, beside what is new. */
  room(stream: string): number
  /** Releases what of this stream is too much for one worker. */
  releaseSurplus(stream: string): void
  /** Milliseconds. */
  claimAfter: number
  signal: AbortSignal
}

const LONGEST_BETWEEN_LOOKS = 5_000
const MAX_IN_ONE_LOOK = 100

const NOTHING = { found: 0, more: false }

/** What the group has set aside until its next attempt, in every stream: see set-aside.lua. */
export class Waiting {
  readonly #states = new Map<ConsumerGroup, WaitingState>()
  /** Where the search for entries continues that a removed consumer or group had taken: see take-due.lua. */
  readonly #searches = new Map<ConsumerGroup, string>()

  /** Takes what is due, in all streams, until the consumer stops. */
  async take({ worker, link, groups, room, releaseSurplus, claimAfter, signal }: WaitingParts): Promise<void> {
    // Not all workers at once.
    const next = () => performance.now() + Math.min(claimAfter / 4, LONGEST_BETWEEN_LOOKS) * (0.75 + Math.random() / 2)
    const roomOf = ({ stream }: ConsumerGroup) =>
      worker.blocked ? 0 : Math.max(0, Math.min(room(stream), MAX_IN_ONE_LOOK))
    let due = 0
    // Those that may have more, and how much room each has had in this round at most.
    let unfinished = new Map<ConsumerGroup, number>()
    while (!signal.aborted) {
      const left = due - performance.now()
      if (left <= 0) {
        due = next()
        unfinished = new Map(groups().map(({ waiting }) => [waiting, 0]))
      } else {
        // A look costs as much for one entry as for many.
        const hasRoom = [...unfinished].some(([group, most]) => roomOf(group) >= Math.max(1, most / 4))
        if (!hasRoom) {
          if (unfinished.size > 0) await worker.changed(left)
          else await pause(left, signal)
          continue
        }
      }
      for (const [group, most] of [...unfinished]) {
        if (signal.aborted) return
        const count = roomOf(group)
        if (left > 0 && count < Math.max(1, most / 4)) continue
        const { found, more } = await this.#look(group, link, count, worker)
        if (found > 0) releaseSurplus(group.stream)
        if (found < count && !more) unfinished.delete(group)
        else unfinished.set(group, Math.max(most, count))
      }
    }
  }

  /** How many were due and taken, and whether more are due, because these were large. */
  async #look(
    group: ConsumerGroup,
    link: ReconnectingClient,
    most: number,
    worker: WaitingParts['worker'],
  ): Promise<{ found: number; more: boolean }> {
    const from = this.#searches.get(group)
    const due = await link.requestOnce((client) => group.takeDue(client, Date.now(), most, from)).catch(unlessStopped)
    if (due === null) return NOTHING
    if (!due) {
      this.#states.delete(group)
      return NOTHING
    }
    const oldestSeconds = due.since === 0 ? 0 : Math.max(0, Date.now() - due.since) / 1000
    this.#searches.set(group, due.searchFrom)
    this.#states.set(group, { stream: group.stream, count: due.waiting, oldestSeconds })
    worker.adopt(group, due.taken)
    return { found: due.taken.length, more: due.more }
  }

  states(): WaitingState[] {
    return [...this.#states.values()]
  }

  /** The waiting streams that exist, as groups whose entries are kept alive and claimed like those of any other stream. */
  get groups(): ConsumerGroup[] {
    return [...this.#states.keys()]
  }
}

/** Null: refused. One stream that refuses must not hold up the others; it is asked again in the next round. */
function unlessStopped(error: unknown): null {
  if (error instanceof StoppedError) throw error
  return null
}
