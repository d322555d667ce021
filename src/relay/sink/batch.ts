import type { Position } from '../../event/position.js'
import { fieldsOf } from '../../event/shape.js'
import type { AppendArguments } from '../../redis/streams/append-arguments.js'

/** An event that was taken out of its batch: what an incident keeps of it. */
export interface TakenEvent {
  transaction: number
  position: Position
  id: string
  fields: Record<string, string>
}

/** Shared by all batches without an event: never changed. */
const NONE: number[] = []

/**
 * Bytes that a batch takes in memory beside its events until Redis has answered: its buffer, the text before its events, the command.
 * Measured, rounded up.
 */
const OVERHEAD_BYTES = 3_072

/** Events of one stream that go to Redis in one call. */
export class Batch {
  readonly args: AppendArguments
  #events = 0
  #bytes = 0
  #transactions: number[] = NONE
  #counts: number[] = NONE
  #committedAt = 0
  #sentAt = 0

  constructor(args: AppendArguments) {
    this.args = args
  }

  get events(): number {
    return this.#events
  }

  /** Never less than its events have: an event that is taken out leaves its bytes counted. */
  get bytes(): number {
    return this.#bytes
  }

  /** Bytes that it takes in memory, with its events. Never less than what was counted for these. */
  get heldBytes(): number {
    return this.#bytes + OVERHEAD_BYTES
  }

  /** The transactions that its events belong to, in order. */
  get transactions(): readonly number[] {
    return this.#transactions
  }

  /** How many events it has of each of `transactions`. */
  get counts(): readonly number[] {
    return this.#counts
  }

  /** Commit time of its oldest event, in milliseconds since 1970. */
  get committedAt(): number {
    return this.#committedAt
  }

  /** When it was sent last, by `performance.now()`. */
  get sentAt(): number {
    return this.#sentAt
  }

  /** Counts an event whose arguments were pushed to `args`; by how many bytes `heldBytes` has grown. */
  add(transaction: number, bytes: number, committedAt: number): number {
    this.args.endEvent()
    this.#bytes += bytes
    this.#events += 1
    if (this.#events === 1) {
      this.#committedAt = committedAt
      // Arrays of one: an array that is pushed to reserves room for 17, and many batches have one event.
      this.#transactions = [transaction]
      this.#counts = [1]
      return bytes + OVERHEAD_BYTES
    }
    const last = this.#transactions.length - 1
    if (this.#transactions[last] === transaction) this.#counts[last]! += 1
    else {
      this.#transactions.push(transaction)
      this.#counts.push(1)
    }
    return bytes
  }

  take(index: number): TakenEvent {
    const [position, id, shape, ...values] = this.args.take(index)
    const fields = fieldsOf(shape, id, position, values)

    let run = 0
    for (let left = index; left >= this.#counts[run]!; run++) left -= this.#counts[run]!
    const transaction = this.#transactions[run]!
    this.#counts[run]! -= 1
    if (this.#counts[run] === 0) {
      this.#counts.splice(run, 1)
      this.#transactions.splice(run, 1)
    }
    this.#events -= 1
    return { transaction, position, id, fields }
  }

  markSent(now: number): void {
    this.#sentAt = now
  }
}
