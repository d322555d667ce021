import type { Head } from '../event/head.js'
import { type Position, ZERO_POSITION } from '../event/position.js'
import { fieldsOf } from '../event/shape.js'
import { appendTarget } from '../redis/append.js'
import { AppendArguments } from '../redis/append-arguments.js'
import type { RejectedRow } from './rejection.js'

/** Events of one stream that go to Redis in one call. */
export interface Batch {
  readonly args: AppendArguments
  events: number
  bytes: number
  /** Which transactions its events belong to, in order, and how many events of each. */
  transactions: number[]
  counts: number[]
  /** Commit time of its oldest event, in milliseconds since 1970. */
  committedAt: number
  /** When it was sent, by `performance.now()`. */
  sentAt: number
}

/** An event of a batch, taken out again: what an incident keeps of it. */
export interface TakenEvent {
  transaction: number
  position: Position
  id: string
  fields: Record<string, string>
}

/**
 * new      nothing is known of the head in Redis yet
 * opening  it is being asked for
 * open     the head is this session's: batches go out
 * refused  Redis will not have this stream (its key holds another type): its events become incidents
 */
export type LaneState = 'new' | 'opening' | 'open' | 'refused'

/** One stream's queue of batches: sent ones first, each chained to the one before it. */
export class Lane {
  state: LaneState = 'new'
  /** Why it is refused, and since when by `performance.now()`. */
  refusal = ''
  refusedAt = 0
  /** The head as Redis last told it. */
  head: Head = { position: ZERO_POSITION, event: '', entry: '0-0' }
  /** The last position known to be appended: where the chain begins again after a fault. */
  acknowledged: Position
  /** The last position that was sent. */
  sent: Position
  /** When an event was last appended, by `performance.now()`. */
  usedAt = 0
  /** The head moved since it was last saved. */
  moved = false
  /** Rows that cannot be published, until the head is known: an earlier session may have published them. */
  readonly undecided: RejectedRow[] = []
  /**
   * How many of its rows are on their way into incidents. Nothing is sent before they are kept, so that every row at or
   * below a head is either in the stream or an incident.
   */
  keeping = 0
  readonly batches: Batch[] = []
  /** How many of `batches`, from the first, are in flight. */
  inFlight = 0

  constructor(
    readonly key: string,
    readonly lineage: string,
    readonly session: string,
    acknowledged: Position = ZERO_POSITION,
  ) {
    this.acknowledged = acknowledged
    this.sent = acknowledged
  }

  /** Nothing waits, is on its way, or is yet to be saved, and the chain is proven up to the head. */
  get isUnused(): boolean {
    const waiting = this.batches.length + this.undecided.length + this.keeping
    return this.state === 'open' && waiting === 0 && !this.moved && this.acknowledged === this.head.position
  }

  /** The batch that takes the next event: the last one, unless it is full or on its way. */
  batch(maxEvents: number, maxBytes: number, bytes: number): Batch {
    const last = this.batches.at(-1)
    if (last && this.batches.length > this.inFlight && last.events < maxEvents && last.bytes + bytes <= maxBytes) {
      return last
    }
    // Held by batches alone: there may be 100,000 streams without one.
    const target = last?.args.target ?? appendTarget(this.key, this.lineage, this.session)
    const batch: Batch = {
      args: new AppendArguments(target),
      events: 0,
      bytes: 0,
      transactions: [],
      counts: [],
      committedAt: 0,
      sentAt: 0,
    }
    this.batches.push(batch)
    return batch
  }

  /** The head's own row came again, with its event's id: the chain is proven up to the head, whatever becomes of the row now. */
  meet(): void {
    if (this.head.position > this.acknowledged) this.acknowledged = this.head.position
    if (this.acknowledged > this.sent) this.sent = this.acknowledged
    this.moved = true
  }

  refuse(reason: string, now: number): void {
    this.state = 'refused'
    this.refusal = reason
    this.refusedAt = now
  }

  /** Forgets what was sent: everything that is not acknowledged goes out again, from where the chain is known. */
  rewind(): void {
    this.inFlight = 0
    this.sent = this.acknowledged
  }
}

/** Counts an event whose arguments were pushed to the batch. */
export function countEvent(batch: Batch, transaction: number, bytes: number, committedAt: number): void {
  batch.args.endEvent()
  if (batch.events === 0) batch.committedAt = committedAt
  batch.events += 1
  batch.bytes += bytes
  const runs = batch.transactions.length
  if (runs > 0 && batch.transactions[runs - 1] === transaction) batch.counts[runs - 1]! += 1
  else {
    batch.transactions.push(transaction)
    batch.counts.push(1)
  }
}

/** Takes event `index` out of a batch. The batch keeps its bytes' count: it only ever errs towards too much. */
export function takeEvent(batch: Batch, index: number): TakenEvent {
  const [position, id, shape, ...values] = batch.args.take(index)
  const fields = fieldsOf(shape, id, position, values)

  let run = 0
  for (let left = index; left >= batch.counts[run]!; run++) left -= batch.counts[run]!
  const transaction = batch.transactions[run] as number
  batch.counts[run]! -= 1
  if (batch.counts[run] === 0) {
    batch.counts.splice(run, 1)
    batch.transactions.splice(run, 1)
  }
  batch.events -= 1
  return { transaction, position, id, fields }
}
