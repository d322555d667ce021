import type { Lsn } from '../../postgres/client/lsn.js'

interface Waiting {
  from: Lsn
  run(lsn: Lsn): void
}

/**
 * How far the replication stream was read. Between two transactions, everything that was committed before it is handed on to be
 * published, and nothing of what comes later is.
 */
export class ReadPosition {
  #lsn: Lsn = 0n
  #isInTransaction = false
  #waiting: Waiting[] = []

  begin(): void {
    this.#isInTransaction = true
  }

  /** `endLsn`: the end of the commit record. */
  commit(endLsn: Lsn): void {
    this.#isInTransaction = false
    this.#reached(endLsn)
  }

  /** The server has sent everything before `walEnd`. */
  keepalive(walEnd: Lsn): void {
    if (!this.#isInTransaction) this.#reached(walEnd)
  }

  /**
   * Calls `work` as soon as the stream stands between two transactions at `from` or later, with how far it was read: at once where it
   * does. Nothing is read while it runs. Rejects when the signal aborts before that.
   */
  between<T>(from: Lsn, work: (lsn: Lsn) => T, signal: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) {
        reject(signal.reason)
        return
      }
      const aborted = () => {
        this.#waiting = this.#waiting.filter((each) => each !== waiting)
        reject(signal.reason)
      }
      const waiting: Waiting = {
        from,
        run: (lsn) => {
          signal.removeEventListener('abort', aborted)
          try {
            resolve(work(lsn))
          } catch (error) {
            reject(error)
          }
        },
      }
      signal.addEventListener('abort', aborted, { once: true })
      this.#waiting.push(waiting)
      if (!this.#isInTransaction) this.#call()
    })
  }

  #reached(lsn: Lsn): void {
    if (lsn > this.#lsn) this.#lsn = lsn
    if (this.#waiting.length > 0) this.#call()
  }

  #call(): void {
    const due = this.#waiting.filter(({ from }) => from <= this.#lsn)
    if (due.length === 0) return
    this.#waiting = this.#waiting.filter(({ from }) => from > this.#lsn)
    for (const { run } of due) run(this.#lsn)
  }
}
