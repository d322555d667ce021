import type { Head } from '../../event/head.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import { appendTarget } from '../../redis/streams/append.js'
import { AppendArguments } from '../../redis/streams/append-arguments.js'
import { Batch, type TakenEvent } from './batch.js'
import type { RejectedRow } from './rejection.js'

/**
 * new      the head in Redis is not known yet
 * opening  Redis is asked for it
 * open     the head is this session's: batches go out
 * refused  Redis refuses this stream (its key holds another type): its events become incidents
 *
 *             new      opening  open     refused
 *   ask       opening
 *   forget             new               new
 *   open      open     open     open     open
 *   refuse             refused  refused
 *   reconnect new      new      open     refused
 */
export type QueueState = 'new' | 'opening' | 'open' | 'refused'

const NO_HEAD: Head = { position: ZERO_POSITION, event: '', entry: '0-0' }

/** Of all queues without a batch: never changed. There may be 100,000 queues, and an array keeps the room that it has reserved. */
const NO_BATCHES: Batch[] = []

/** One stream's queue of batches: sent ones first, each chained to the one before it. */
export class StreamQueue {
  #state: QueueState = 'new'
  #refusal = ''
  #refusedAt = 0
  #head = NO_HEAD
  #acknowledged: Position
  #sent: Position
  #usedAt = 0
  #moved = false
  /** Rows that cannot be published, until the head is known: an earlier session may have published them. */
  #undecided: RejectedRow[] | undefined
  #keeping = 0
  #batches = NO_BATCHES
  #inFlight = 0

  constructor(
    readonly key: string,
    readonly lineage: string,
    readonly session: string,
    acknowledged: Position = ZERO_POSITION,
  ) {
    this.#acknowledged = acknowledged
    this.#sent = acknowledged
  }

  get state(): QueueState {
    return this.#state
  }

  /** Why it was refused last. */
  get refusal(): string {
    return this.#refusal
  }

  /** When it was refused last, by `performance.now()`. */
  get refusedAt(): number {
    return this.#refusedAt
  }

  /** The head as Redis reported it last. */
  get head(): Head {
    return this.#head
  }

  /** The last position known to be appended: the chain continues from it after a fault. */
  get acknowledged(): Position {
    return this.#acknowledged
  }

  /** The last position that was sent. */
  get sent(): Position {
    return this.#sent
  }

  /** When an event was last appended, by `performance.now()`. */
  get usedAt(): number {
    return this.#usedAt
  }

  get batches(): readonly Batch[] {
    return this.#batches
  }

  /** How many of `batches`, from the first, are in flight. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** Something waits to be sent, or to be decided. */
  get hasWork(): boolean {
    return this.#batches.length > 0 || this.#undecided !== undefined
  }

  /** A batch waits that may be sent now. None is while rows of the stream are on their way into incidents. */
  get isSendable(): boolean {
    return this.#keeping === 0 && this.#inFlight < this.#batches.length
  }

  /** Nothing waits, is on its way, or is yet to be saved, and the chain is proven up to the head. */
  get isUnused(): boolean {
    const isWaiting = this.hasWork || this.#keeping > 0
    return this.#state === 'open' && !isWaiting && !this.#moved && this.#acknowledged === this.#head.position
  }

  /** The batch that takes the next event: the last one, unless it is full or on its way. */
  batch(maxEvents: number, maxBytes: number, bytes: number): Batch {
    const last = this.#batches.at(-1)
    if (last && this.#batches.length > this.#inFlight && last.events < maxEvents && last.bytes + bytes <= maxBytes) {
      return last
    }
    // Held by batches alone: there may be 100,000 streams without one.
    const target = last?.args.target ?? appendTarget(this.key, this.lineage, this.session)
    const batch = new Batch(new AppendArguments(target))
    if (last) this.#batches.push(batch)
    else this.#batches = [batch]
    return batch
  }

  /** Removes a batch that has no event. */
  discard(batch: Batch): void {
    this.#remove(batch)
    batch.args.release()
  }

  ask(): void {
    this.#state = 'opening'
  }

  forget(): void {
    this.#state = 'new'
  }

  /** The head is this session's, and the chain begins at `chain`. */
  open(head: Head, chain: Position): void {
    this.#head = head
    this.#acknowledged = chain
    this.#rewind()
    this.#state = 'open'
  }

  refuse(reason: string, now: number): void {
    this.#state = 'refused'
    this.#refusal = reason
    this.#refusedAt = now
  }

  /** Another connection: everything that is not acknowledged is sent again, from where the chain is known. */
  reconnect(): void {
    if (this.#state === 'opening') this.#state = 'new'
    this.#rewind()
  }

  /** The next batch goes out, chained to what was `sent` before the call. */
  send(now: number): Batch {
    const batch = this.#batches[this.#inFlight] as Batch
    this.#inFlight += 1
    batch.markSent(now)
    // It only rises: a replay may lie below the head that the chain began at.
    const { last } = batch.args
    if (last > this.#sent) this.#sent = last
    return batch
  }

  /** All events of the oldest batch are in the stream. */
  acknowledge(batch: Batch, head: Head, now: number): void {
    if (this.#batches[0] !== batch)
      throw new Error(`Expected the reply to the oldest batch of ${this.key}, found another.`)
    this.#batches.shift()
    if (this.#batches.length === 0) this.#batches = NO_BATCHES
    this.#inFlight -= 1
    this.#head = head
    // One text for all that is the same position: there may be 100,000 streams.
    const { position } = head
    const last = batch.args.last === position ? position : batch.args.last
    if (last > this.#acknowledged) this.#acknowledged = last
    if (this.#sent === last) this.#sent = last
    batch.args.release()
    this.#moved = true
    this.#usedAt = now
  }

  /** Events of a batch up to the head are in the stream: Redis found the chain whole up to there before it appended. */
  acknowledgePart(head: Head): void {
    this.#head = head
    if (head.position > this.#acknowledged) this.#acknowledged = head.position
    this.#moved = true
  }

  /** A probe found the head at this position, or past what was acknowledged. */
  verified(head: Head): void {
    this.#head = head
  }

  /** The head's own row was read again, with its event's id: the chain is proven up to the head, wherever the row goes now. */
  meet(): void {
    if (this.#head.position > this.#acknowledged) this.#acknowledged = this.#head.position
    if (this.#acknowledged > this.#sent) this.#sent = this.#acknowledged
    this.#moved = true
  }

  /** The head is saved before the next position is confirmed, also if it did not move. */
  markMoved(): void {
    this.#moved = true
  }

  /** The head, if it moved since it was last taken to be saved. */
  takeMoved(): Head | undefined {
    if (!this.#moved) return undefined
    this.#moved = false
    return this.#head
  }

  /** Takes an event out of one of the batches, and removes the batch if that was its last one. */
  take(batch: Batch, index: number): TakenEvent {
    const event = batch.take(index)
    if (batch.events === 0) this.#remove(batch)
    return event
  }

  takeBatches(): Batch[] {
    const batches = [...this.#batches]
    this.#batches = NO_BATCHES
    return batches
  }

  /** A row that cannot be published waits until the head is known. */
  defer(row: RejectedRow): void {
    this.#undecided ??= []
    this.#undecided.push(row)
  }

  takeUndecided(): RejectedRow[] {
    const rows = this.#undecided ?? []
    this.#undecided = undefined
    return rows
  }

  /**
   * So many of its rows are on their way into incidents, and with a negative number no longer. Nothing is sent before they
   * are kept, so that every row at or below a head is either in the stream or an incident.
   */
  countKeeping(rows: number): void {
    this.#keeping += rows
  }

  #rewind(): void {
    this.#inFlight = 0
    this.#sent = this.#acknowledged
  }

  #remove(batch: Batch): void {
    this.#batches.splice(this.#batches.indexOf(batch), 1)
    if (this.#batches.length === 0) this.#batches = NO_BATCHES
  }
}
