import { once } from 'node:events'
import { pause } from '../../base/backoff.js'
import { every } from '../../base/interval.js'
import type { Head } from '../../event/head.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import type { Level } from '../../redis/streams/durability.js'
import type { StreamQueue } from '../sink/stream-queue.js'
import { Confirmer, type ConfirmOptions, type Pending } from './confirmer.js'
import type { DurabilityBarrier } from './durability-barrier.js'
import type { StateStore } from './state-store.js'
import type { TransactionTracker } from './transaction-tracker.js'

const CONFIRM_EVERY_MS = 1_000
/** The pause after a failed round of `finish`. */
const RETRY_AFTER_MS = 20

export interface ConfirmLoopOptions {
  level: Level | 'auto'
  /** The position that the slot has confirmed. */
  confirmed: Lsn
  tracker: TransactionTracker
  barrier: DurabilityBarrier
  stateStore: StateStore
  /** The streams in use. */
  queues(): Iterable<StreamQueue>
  /** Are all saved heads taken over? Before, there is no checkpoint: it says what was published by then. */
  ownsHeads(): boolean
  /** Tells the slot. */
  confirm(lsn: Lsn): void
  /** These heads are durable and saved. */
  saved(heads: ReadonlyMap<string, Head>): void
  /** The barrier failed, or did not find a head where it was published. */
  barrierFailed(error: Error): void
  observe: ConfirmOptions['observe']
  failed(error: unknown): void
}

/** Confirms what is appended: a round each second, and the last ones in quick succession. */
export class ConfirmLoop {
  readonly #options: ConfirmLoopOptions
  readonly #confirmer: Confirmer
  #taken: Lsn
  #isHeadAwaited = false
  #round: Promise<void> | undefined

  constructor(options: ConfirmLoopOptions) {
    const { level, confirmed, barrier, stateStore, observe } = options
    this.#options = options
    this.#taken = confirmed
    this.#confirmer = new Confirmer(
      {
        ...{ level, observe, confirm: options.confirm },
        take: () => this.#take(),
        tryLevel: (each) => barrier.try(each),
        reachDurability: (each, heads) =>
          barrier.reach(each, heads).catch((error) => {
            options.barrierFailed(error)
            throw error
          }),
        save: async (lsn, heads) => {
          await stateStore.save(lsn, heads)
          options.saved(heads)
        },
      },
      confirmed,
    )
  }

  get confirmed(): Lsn {
    return this.#confirmer.confirmed
  }

  /** Up to where transactions were taken to be confirmed. */
  get taken(): Lsn {
    return this.#taken
  }

  /** The next round saves the heads that have moved, also if there is nothing else to be confirmed. */
  awaitHeads(): void {
    this.#isHeadAwaited = true
  }

  /** Starts a round each second until the signal aborts. */
  start(signal: AbortSignal): void {
    every(CONFIRM_EVERY_MS, () => void this.#run(), signal)
  }

  /** One round, unless one is under way. */
  #run(): Promise<void> {
    this.#round ??= this.#runRound()
      .catch((error) => this.#options.failed(error))
      .finally(() => {
        this.#round = undefined
      })
    return this.#round
  }

  /** Rounds until everything appended is confirmed, or the signal aborts. The delay at level `memory` is not waited for. */
  async finish(signal: AbortSignal): Promise<void> {
    const aborted = once(signal, 'abort')
    while (!signal.aborted && !this.#isSettled) {
      await Promise.race([this.#run(), aborted])
      if (this.#confirmer.level === 'memory') return
      if (!this.#confirmer.settled) await pause(RETRY_AFTER_MS, signal)
    }
  }

  get #isSettled(): boolean {
    return this.#confirmer.settled && this.#options.tracker.confirmable <= this.#taken
  }

  async #runRound(): Promise<void> {
    await this.#confirmer.round(performance.now())
    const { ownsHeads, stateStore } = this.#options
    if (ownsHeads()) await stateStore.checkpoint(this.confirmed, performance.now())
  }

  #take(): Pending | undefined {
    const lsn = this.#options.tracker.confirmable
    if (lsn <= this.#taken && !this.#isHeadAwaited) return undefined
    this.#isHeadAwaited = false
    if (lsn > this.#taken) this.#taken = lsn
    const heads = new Map<string, Head>()
    for (const queue of this.#options.queues()) {
      const head = queue.takeMoved()
      if (head) heads.set(queue.key, head)
    }
    return { lsn: this.#taken, heads }
  }
}
