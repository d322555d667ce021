import { MAX_HELD_ENTRIES } from '../limits.js'
import type { Settings } from '../options.js'
import type { Routes } from '../routes.js'
import type { Worker } from '../worker.js'

/** How far is read past what waits for a handler at its cap, to find work for the others. */
const MAX_CROWDED = 1_000

/** How much more a worker takes from Redis. */
export class Capacity {
  readonly #worker: Worker
  readonly #maxPending: number
  readonly #prefetch: number
  readonly #maxHeld: number

  constructor(worker: Worker, { prefetch, concurrency, maxPending }: Settings, routes: Routes) {
    const batch = largestBatch(routes)
    this.#worker = worker
    this.#maxPending = maxPending
    // One batch that runs, and one that is collected meanwhile.
    this.#maxHeld = Math.max(MAX_HELD_ENTRIES, 2 * batch + concurrency)
    this.#prefetch = Math.min(prefetch ?? defaultPrefetch(concurrency, routes, batch), this.#maxHeld)
  }

  /** New entries, in all; 0 before a good part is free: a read costs as much for one entry as for many. */
  readonly room = (): number => {
    const { schedule, unacknowledged, payloadRoom } = this.#worker
    // Read all the same for other handlers, if those are crowded whose payloads take up the bytes.
    if (payloadRoom <= 0 && schedule.crowded === 0) return 0
    const held = schedule.held + unacknowledged
    const idle = schedule.count('waiting') + Math.min(schedule.crowded, MAX_CROWDED)
    const room = Math.min(this.#prefetch - held + idle, this.#maxHeld - held)
    return room < this.#prefetch / 4 ? 0 : room
  }

  /** Entries that other workers have left in a stream, whatever is held of new ones. */
  readonly roomForLeft = (stream: string): number => {
    const { schedule } = this.#worker
    return Math.min(this.#prefetch - schedule.leftOf(stream), 2 * this.#maxHeld - schedule.held)
  }

  /** Ordered: what is behind another of its lane does not keep the others from being read, up to a bound. */
  readonly roomOf = (key: string): number => {
    const { schedule, unacknowledged } = this.#worker
    const soon = schedule.count('queued') + schedule.count('running') + unacknowledged
    return soon >= this.#prefetch ? 0 : this.#maxPending - schedule.heldOf(key)
  }
}

const largestBatch = (routes: Routes): number =>
  Math.max(...routes.all.map(({ work }) => (work.kind === 'batch' ? work.size : 1)))

/**
 * Enough to keep it busy while it reads: more than a hundred, or the next batches. With long work little more than what runs,
 * because what one worker holds the others cannot have.
 */
function defaultPrefetch(concurrency: number, routes: Routes, batch: number): number {
  if (routes.all.some(({ work }) => work.kind === 'long')) return concurrency + Math.ceil(concurrency / 2)
  return concurrency + Math.max(2 * concurrency, 100, 6 * batch)
}
