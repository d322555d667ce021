import pg from 'pg'
import { every } from '../../base/interval.js'
import { type Lsn, parseLsn } from '../../postgres/client/lsn.js'
import { settlingStreams } from '../../postgres/state/gaps.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import {
  closeRepaired,
  loadRepair,
  loadSettling,
  readEnded,
  reopenRepaired,
  saveSettled,
} from '../../postgres/state/repairs.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import type { Logger } from '../../telemetry/log.js'
import type { StateStore } from '../confirm/state-store.js'
import { UnsettledError } from '../errors.js'
import { AwaitedRows, type AwaitedRowsOptions, type SettlingRepair } from './awaited-rows.js'
import { type Awaited, awaitedLsn, dueOf, type Ended, isSettled } from './settlement.js'

const LOOK_EVERY_MS = 1_000
/** Looking for rows reads the table: what has ended meanwhile is looked for together. */
const VERIFY_EVERY_MS = 60_000

export interface SettlingOptions extends AwaitedRowsOptions {
  log: Logger
  /** The position that the slot was told last. */
  confirmed(): Lsn
  failed(error: unknown): void
}

/**
 * Awaits the transactions that were open when a repair took its snapshot. Their rows come from WAL; but of one that was open
 * while rows were not decoded, only a part may come, whatever its Begin says. So each row is looked for by its id, and the
 * repair begins again where one is missing. Events flow meanwhile; an orphaned prepared transaction is awaited without end.
 */
export class Settling {
  readonly #options: SettlingOptions
  readonly #open: Set<string>
  readonly #rows: AwaitedRows
  #ended: Ended[] = []
  #verifiedAt = Number.NEGATIVE_INFINITY
  #isLooking = false
  #isClosed = false
  #said = ''

  constructor(options: SettlingOptions) {
    this.#options = options
    this.#open = new Set(options.repair.unsettled)
    this.#rows = new AwaitedRows(options)
  }

  /** What must be confirmed before there is more to be seen; 0: nothing. Without traffic the relay would not confirm so little. */
  get awaited(): Lsn {
    return this.#isClosed ? 0n : awaitedLsn(this.#awaited)
  }

  get #awaited(): Awaited {
    return { until: this.#options.repair.until, open: this.#open, ended: this.#ended }
  }

  get #own() {
    return { lineage: this.#options.lineage.lineage, session: this.#options.repair.session }
  }

  start(signal: AbortSignal): void {
    every(LOOK_EVERY_MS, () => void this.#look(signal), signal)
  }

  async #look(signal: AbortSignal): Promise<void> {
    if (this.#isLooking || this.#isClosed) return
    this.#isLooking = true
    try {
      await this.#notice()
      await this.#verify(signal)
      await this.#close()
    } catch (error) {
      if (!signal.aborted) this.#fail(error as Error)
    } finally {
      this.#isLooking = false
    }
  }

  /** Redis is asked again. */
  #fail(error: Error): void {
    const { stateStore, log, failed } = this.#options
    const isOfRedis =
      !(error instanceof UnsettledError) && !(error instanceof pg.DatabaseError) && !stateStore.hasFailedWith(error)
    if (!isOfRedis || classifyRedisError(error).policy !== 'retry') {
      failed(error)
      return
    }
    if (error.message !== this.#said)
      log.warn({ err: error }, 'looking for events that a repair awaits failed, retrying')
    this.#said = error.message
  }

  /** Which have ended since? What they wrote lies before the LSN that is read after that. */
  async #notice(): Promise<void> {
    if (this.#open.size === 0) return
    const { stateStore } = this.#options
    await stateStore.inTurn(async (postgres) => {
      const { committed, aborted } = await readEnded(postgres, [...this.#open])
      if (committed.length + aborted.length === 0) return
      const { rows } = await postgres.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
      const lsn = parseLsn(rows[0]!.lsn)
      for (const xid of [...committed, ...aborted]) this.#open.delete(xid)
      this.#ended.push(...committed.map((xid) => ({ xid, lsn })))
      if (aborted.length > 0) await saveSettled(postgres, this.#own, aborted)
    })
  }

  /** Have the rows of what has ended arrived? */
  async #verify(signal: AbortSignal): Promise<void> {
    const { confirmed, stateStore, lineage, log } = this.#options
    const due = dueOf(this.#awaited, confirmed())
    const isLast = this.#open.size === 0 && due.length === this.#ended.length
    if (due.length === 0 || (!isLast && performance.now() - this.#verifiedAt < VERIFY_EVERY_MS)) return
    this.#verifiedAt = performance.now()
    const xids = due.map(({ xid }) => xid)
    const missing = await this.#rows.countMissing(xids, signal)
    if (missing > 0) {
      const reopen = (postgres: pg.Client) => reopenRepaired(postgres, lineage.lineage, stateStore.walsender)
      const reason = await stateStore.inTurn(reopen)
      if (reason === undefined)
        throw new Error(
          'The lock of the slot is not held any longer, or the gap was closed while its transactions were awaited.',
        )
      log.warn(
        { events: missing },
        'events of transactions that were open during a repair are missing, or their stream has no saved head: repairing again',
      )
      throw new UnsettledError(reason, 'Events are missing that a transaction had written before a repair.')
    }
    await stateStore.inTurn((postgres) => saveSettled(postgres, this.#own, xids))
    this.#ended = this.#ended.filter((each) => !due.includes(each))
  }

  async #close(): Promise<void> {
    const { confirmed, stateStore, log } = this.#options
    if (!isSettled(this.#awaited, confirmed())) return
    const closed = await stateStore.inTurn((postgres) => closeRepaired(postgres, this.#own))
    this.#isClosed = true
    if (closed.length > 0) log.info({ incidents: closed }, 'gap closed: repaired')
  }
}

export async function readSettling(postgres: pg.ClientBase, { lineage }: Lineage): Promise<SettlingRepair | undefined> {
  const repair = await loadSettling(postgres, lineage)
  if (!repair) return undefined
  const streams = repair.everyStream ? undefined : await settlingStreams(postgres, lineage)
  return { ...repair, streams }
}

/** What was repaired last on another timeline cannot settle: transaction ids mean something else on it. */
export async function reopenIfFailedOver(stateStore: StateStore, lineage: Lineage, timeline: number): Promise<void> {
  await stateStore.inTurn(async (postgres) => {
    const repair = await loadRepair(postgres, lineage.lineage)
    if (repair && repair.timeline !== timeline) await reopenRepaired(postgres, lineage.lineage, stateStore.walsender)
  })
}
