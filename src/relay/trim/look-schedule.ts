import type { Position } from '../../event/position.js'

/** A stream's key, and the position that its head has reached. */
export type ReachedStream = [key: string, position: Position]

/** Streams that are looked at in one tick. */
const STREAMS_A_TICK = 200

/** When each stream is looked at next, by a clock that only rises, in milliseconds. */
export class LookSchedule {
  readonly #due = new Map<string, number>()

  /** Those that are due, the longest first; each is due again after its interval. A new stream is due at once. */
  take(streams: Iterable<ReachedStream>, now: number, intervalOf: (key: string) => number): ReachedStream[] {
    const dueAt = (key: string) => this.#due.get(key) ?? 0
    const due: ReachedStream[] = []
    for (const stream of streams) if (dueAt(stream[0]) <= now) due.push(stream)
    if (due.length > STREAMS_A_TICK) due.sort(([one], [other]) => dueAt(one) - dueAt(other))
    const some = due.slice(0, STREAMS_A_TICK)
    for (const [key] of some) this.#due.set(key, now + intervalOf(key))
    return some
  }

  /** It is due then, not before and not after. */
  setDue(key: string, at: number): void {
    this.#due.set(key, at)
  }

  /** It is due then at the latest. */
  setDueBy(key: string, at: number): void {
    this.#due.set(key, Math.min(at, this.#due.get(key) ?? at))
  }
}
