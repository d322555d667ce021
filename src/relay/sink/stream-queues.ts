import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { PublisherOptions } from './publisher-options.js'
import { StreamQueue } from './stream-queue.js'

export type StreamQueuesOptions = Pick<PublisherOptions, 'lineage' | 'session' | 'idleAfterMs'>

const IDLE_AFTER_MS = 60_000

/** Its key, and the position that its head must have reached. */
export type IdleStream = [key: string, position: Position]

/**
 * A database may have many thousands of streams, most of which nothing uses. A stream in use has a queue. For an idle one
 * only the position is kept that its head must have reached.
 */
export class StreamQueues {
  readonly #options: StreamQueuesOptions
  readonly #idleAfterMs: number
  readonly #used = new Map<string, StreamQueue>()
  readonly #idle = new Map<string, Position>()
  readonly #turns = this.#everyStream()

  constructor(options: StreamQueuesOptions) {
    this.#options = options
    this.#idleAfterMs = options.idleAfterMs ?? IDLE_AFTER_MS
  }

  /** The streams that are not idle. */
  get used(): ReadonlyMap<string, StreamQueue> {
    return this.#used
  }

  get idle(): ReadonlyMap<string, Position> {
    return this.#idle
  }

  get size(): number {
    return this.#used.size + this.#idle.size
  }

  /** The stream's queue; an idle stream is in use from here on. */
  get(key: string): StreamQueue {
    let queue = this.#used.get(key)
    if (queue === undefined) {
      const { lineage, session } = this.#options
      queue = new StreamQueue(key, lineage, session, this.#idle.get(key))
      this.#idle.delete(key)
      this.#used.set(key, queue)
    }
    return queue
  }

  /** Every stream whose head is this session's, and the position that it has reached. */
  *reached(): Generator<IdleStream> {
    for (const { key, state, acknowledged } of this.#used.values()) {
      if (state === 'open' && acknowledged !== ZERO_POSITION) yield [key, acknowledged]
    }
    yield* this.#idle
  }

  addIdle(key: string, position: Position): void {
    this.#idle.set(key, position)
  }

  /** Streams that were not used for long are idle. One without an event has nothing that it could lose. */
  retireUnused(now: number): void {
    for (const queue of this.#used.values()) {
      if (!queue.isUnused || now - queue.usedAt < this.#idleAfterMs) continue
      this.#used.delete(queue.key)
      if (queue.acknowledged !== ZERO_POSITION) this.#idle.set(queue.key, queue.acknowledged)
    }
  }

  /** The next one of all streams in turn. There must be one. */
  next(): StreamQueue | IdleStream {
    return this.#turns.next().value
  }

  /**
   * A turn ends after as many streams as there were when it began: each stream that is used again, or no longer, moves to
   * the end, and there may be more of them than are asked for.
   */
  *#everyStream(): Generator<StreamQueue | IdleStream, never> {
    for (;;) {
      yield* first(this.#used.size, this.#used.values())
      yield* first(this.#idle.size, this.#idle)
    }
  }
}

function* first<T>(count: number, items: Iterable<T>): Generator<T> {
  let left = count
  for (const item of items) {
    if (left-- === 0) return
    yield item
  }
}
