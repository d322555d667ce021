import { pause } from '../../backoff.js'
import type { Group } from '../../redis/group.js'
import { type Link, StoppedError } from '../link.js'
import type { Worker } from '../worker.js'

export interface WaitingParts {
  worker: Worker
  link: Link
  groups(): readonly Group[]
  /** Room for so many entries of this stream, beside what is new. */
  room(stream: string): number
  /** Milliseconds. */
  claimAfter: number
  signal: AbortSignal
}

/** How the waiting stream of a group stands. */
export interface WaitingState {
  /** The stream's key. */
  stream: string
  /** Events that wait, or whose next attempt runs. */
  count: number
  /** Since the event of its first entry failed for the first time; 0 without one. */
  oldestSeconds: number
}

const LONGEST_BETWEEN_LOOKS = 5_000
const MAX_IN_ONE_LOOK = 100

/** What the group has set aside until its next attempt, in every stream: see wait.lua. */
export class Waiting {
  readonly #states = new Map<Group, WaitingState>()

  /** Takes what is due, in all streams, until the consumer stops. */
  async take({ worker, link, groups, room, claimAfter, signal }: WaitingParts): Promise<void> {
    // Not all workers at once.
    const next = () => performance.now() + Math.min(claimAfter / 4, LONGEST_BETWEEN_LOOKS) * (0.75 + Math.random() / 2)
    const roomOf = ({ stream }: Group) => (worker.blocked ? 0 : Math.max(0, Math.min(room(stream), MAX_IN_ONE_LOOK)))
    let due = 0
    // Those that may have more, and how much room each has had in this round at most.
    let unfinished = new Map<Group, number>()
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
        const found = await this.#look(group, link, count, worker)
        if (found < count) unfinished.delete(group)
        else unfinished.set(group, Math.max(most, count))
      }
    }
  }

  /** How many were due and taken. */
  async #look(group: Group, link: Link, most: number, worker: WaitingParts['worker']): Promise<number> {
    const due = await link.once((client) => group.due(client, Date.now(), most)).catch(unlessStopped)
    if (due === null) return 0
    if (!due) {
      this.#states.delete(group)
      return 0
    }
    const oldestSeconds = due.since === 0 ? 0 : Math.max(0, Date.now() - due.since) / 1000
    this.#states.set(group, { stream: group.stream, count: due.waiting, oldestSeconds })
    worker.adopt(group, due.taken)
    return due.taken.length
  }

  states(): WaitingState[] {
    return [...this.#states.values()]
  }

  /** The waiting streams that exist, as groups whose entries are kept alive and claimed like those of any other stream. */
  get groups(): Group[] {
    return [...this.#states.keys()]
  }
}

/** Null: refused. One stream that refuses must not hold up the others; it is asked again in the next round. */
function unlessStopped(error: unknown): null {
  if (error instanceof StoppedError) throw error
  return null
}
