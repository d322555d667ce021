import type { Lsn } from '../../postgres/client/lsn.js'

/**
 * Which transactions are done, in the order of their commits. Pure.
 *
 * A transaction is done when it has committed and every row of it is appended (or kept as an incident). What may be
 * confirmed is the end of the last transaction before which everything is done: never a row further.
 * Transactions are numbered in the order they begin on the stream, which under protocol 1 is their order of commit.
 * Kept in a ring of plain numbers, so that a million small transactions in flight are no million objects.
 */
export class TransactionTracker {
  #pending = new Int32Array(1024)
  #endLsn = new BigUint64Array(1024)
  #head = 0
  #tail = 0
  #open = false
  #confirmable: Lsn = 0n

  /** Nothing waits for anything: no transaction is open, and none is unfinished. */
  get idle(): boolean {
    return !this.#open && this.#head === this.#tail
  }

  /** The end of the last transaction up to which everything is done; 0 before the first. It only rises. */
  get confirmable(): Lsn {
    return this.#confirmable
  }

  /** A transaction begins; its number. */
  begin(): number {
    if (this.#open) throw new Error('Expected the open transaction to commit before another begins.')
    if (this.#tail - this.#head === this.#pending.length) this.#grow()
    const transaction = this.#tail++
    const at = this.#at(transaction)
    this.#pending[at] = 1 // the commit itself
    this.#endLsn[at] = 0n
    this.#open = true
    return transaction
  }

  /** One more row of the open transaction waits. */
  row(): void {
    this.#pending[this.#at(this.#tail - 1)]! += 1
  }

  /** The open transaction has committed; `endLsn` is the end of its commit record. */
  commit(endLsn: Lsn): void {
    if (!this.#open) throw new Error('Expected a transaction to be open when one commits.')
    this.#endLsn[this.#at(this.#tail - 1)] = endLsn
    this.#open = false
    this.done(this.#tail - 1, 1)
  }

  /** Everything before `lsn` was received and the stream stands between transactions: a commit without rows. */
  reached(lsn: Lsn): void {
    this.begin()
    this.commit(lsn)
  }

  /** `count` rows of `transaction` are appended. */
  done(transaction: number, count: number): void {
    const at = this.#at(transaction)
    const left = this.#pending[at]! - count
    if (transaction < this.#head || transaction >= this.#tail || left < 0) {
      throw new Error(
        `Expected rows that wait in transaction ${transaction}, found ${left} after ${count} were processed.`,
      )
    }
    this.#pending[at] = left
    while (this.#head < this.#tail && this.#pending[this.#at(this.#head)] === 0) {
      const endLsn = this.#endLsn[this.#at(this.#head)]!
      if (endLsn > this.#confirmable) this.#confirmable = endLsn
      this.#head += 1
    }
  }

  #at(transaction: number): number {
    return transaction & (this.#pending.length - 1)
  }

  #grow(): void {
    const pending = new Int32Array(this.#pending.length * 2)
    const endLsn = new BigUint64Array(pending.length)
    for (let transaction = this.#head; transaction < this.#tail; transaction++) {
      const to = transaction & (pending.length - 1)
      pending[to] = this.#pending[this.#at(transaction)]!
      endLsn[to] = this.#endLsn[this.#at(transaction)]!
    }
    this.#pending = pending
    this.#endLsn = endLsn
  }
}
