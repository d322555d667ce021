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
    while (!signal.aborted) {
      for (const { waiting: group } of groups()) {
        let most = 0
        let found = 0
        do {
          most = worker.blocked ? 0 : Math.max(0, Math.min(room(group.stream), MAX_IN_ONE_LOOK))
          found = await this.#look(group, link, most, worker)
        } while (found > 0 && found === most && !signal.aborted)
      }
      // Not all workers at once.
      await pause(Math.min(claimAfter / 4, LONGEST_BETWEEN_LOOKS) * (0.75 + Math.random() / 2), signal)
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
