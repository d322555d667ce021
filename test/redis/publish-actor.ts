import { randomUUID } from 'node:crypto'
import type { AppendReply } from '../../src/redis/streams/append.js'
import type { AppendedEvent } from '../support/events.js'
import { eventId, type Lineage, positionAt } from './published-state.js'

/** A call on its way. Events are counted from 0; `previous` -1 is the start of everything. */
export interface Sent {
  previous: number
  from: number
  to: number
}

/** A session of a relay, as Publisher and StreamQueue are, with the network between it and Redis laid open. */
export class Actor {
  readonly session = randomUUID()
  /** Redis told it that it may not go on. */
  ended = false
  /** What Redis has not had yet; it may arrive long after the session ended. */
  wire: Sent[] = []
  /** Replies that the session has not had yet. */
  replies: { sent: Sent; reply: AppendReply }[] = []
  #acknowledged: { chain: number; next: number }
  #sent: { chain: number; next: number }

  /** The chain starts behind event `chain`; the replay begins at `next`, which may be far before it. */
  constructor(
    readonly lineage: Lineage,
    chain: number,
    next: number,
  ) {
    this.#acknowledged = { chain, next }
    this.#sent = this.#acknowledged
  }

  get chain(): number {
    return this.#acknowledged.chain
  }

  /** Everything that it ever sent builds on an event. */
  get isChained(): boolean {
    return this.chain >= 0 && this.wire.every(({ previous }) => previous >= 0)
  }

  post(size: number): void {
    if (this.ended || this.wire.length + this.replies.length >= 3) return
    const { chain, next } = this.#sent
    this.wire.push({ previous: chain, from: next, to: next + size - 1 })
    this.#sent = { chain: next + size - 1, next: next + size }
  }

  receive(): void {
    const answer = this.replies.shift()
    if (!answer) return
    const { sent, reply } = answer
    if (reply.status === 'OK') this.#acknowledged = { chain: sent.to, next: sent.to + 1 }
    else if (reply.status === 'ERROR') this.cut()
    else this.end()
  }

  /** The connection is lost: replies never come, and everything that is not acknowledged is to be sent again. */
  cut(): void {
    this.wire = []
    this.replies = []
    this.#sent = this.#acknowledged
  }

  /** What is on the wire stays there. */
  end(): void {
    this.ended = true
    this.replies = []
  }
}

export const eventsOf = (lineage: Lineage, { from, to }: Sent): AppendedEvent[] =>
  Array.from({ length: to - from + 1 }, (_, i) => {
    const id = eventId(lineage, from + i)
    return { position: positionAt(from + i), id, fields: ['id', id] }
  })
