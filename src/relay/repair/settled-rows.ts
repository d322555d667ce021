import { Column } from '../../event/envelope.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { beginLsn, beginXid } from '../../postgres/replication/pgoutput.js'
import { Snapshot } from '../../postgres/state/snapshot.js'
import type { RowRouter } from '../source/row-router.js'

/** The column of Outrider's own table with the transaction that inserted the row. */
export const TXID = 'txid'

/** Rows of awaited transactions that are kept: what comes beyond is looked for in its stream. */
const MAX_ARRIVED = 100_000

export interface SettledRowsOptions {
  /** The snapshot of the repair, and an LSN after it. */
  snapshot: string
  until: Lsn
  /** Transactions that were open then. */
  unsettled: readonly string[]
  /** The streams that were repaired; undefined: all of them. */
  streams: ReadonlySet<string> | undefined
  router: Pick<RowRouter, 'indexOf' | 'text'>
}

/**
 * The rows that a repair has put back, or found in their streams: those of repaired streams that its snapshot sees. They may
 * come from WAL as well, up to `until`. A row is dropped only if its own `txid` is that of the transaction that it comes in.
 *
 * Notes the rows of transactions that were open then: they may be acknowledged and deleted before they are looked for.
 */
export class SettledRows {
  readonly #options: SettledRowsOptions
  readonly #snapshot: Snapshot
  readonly #txidAt: number
  readonly #unsettled: ReadonlySet<string>
  readonly #arrived = new Set<string>()
  /** Of the transaction that is being received, where the snapshot sees it. */
  #xid: string | undefined
  #isAwaited = false

  constructor(options: SettledRowsOptions) {
    this.#options = options
    this.#snapshot = new Snapshot(options.snapshot)
    this.#txidAt = options.router.indexOf(TXID)
    this.#unsettled = new Set(options.unsettled)
  }

  /** Has a row of this stream with this id come from WAL, of a transaction that was open? Several streams may have one id. */
  hasArrived(key: string, id: string): boolean {
    return this.#arrived.has(arrivalOf(key, id))
  }

  /** A transaction begins, with the Begin message at `start`. */
  begin(data: Buffer, start: number): void {
    this.#xid = undefined
    this.#isAwaited = false
    const lsn = beginLsn(data, start)
    if (lsn >= this.#options.until && this.#unsettled.size === 0) return
    const xid = nearestXid(beginXid(data, start), this.#snapshot.xmax)
    const side = sideOf(xid, lsn, { snapshot: this.#snapshot, until: this.#options.until, unsettled: this.#unsettled })
    this.#isAwaited = side === 'awaited'
    if (side === 'table') this.#xid = String(xid)
  }

  /** Is the row that was read last one of them? `key`: of its stream. */
  drops(key: string): boolean {
    if (this.#isAwaited) this.#note(key)
    if (this.#xid === undefined) return false
    const { streams, router } = this.#options
    return (streams === undefined || streams.has(key)) && router.text(this.#txidAt) === this.#xid
  }

  #note(key: string): void {
    const id = this.#options.router.text(Column.id)
    if (id !== null && this.#arrived.size < MAX_ARRIVED) this.#arrived.add(arrivalOf(key, id))
  }
}

/** No stream key has a space. */
const arrivalOf = (key: string, id: string): string => `${key} ${id}`

/**
 * table    the repair has put back its rows, or found them: they are not taken from WAL
 * awaited  it was open when the repair took its snapshot: its rows are taken from WAL, and looked for afterwards
 * wal      its rows are taken from WAL
 */
export type Side = 'table' | 'awaited' | 'wal'

/** Where the rows come from of a transaction whose commit record is at `lsn`. Pure. */
export function sideOf(
  xid: bigint,
  lsn: Lsn,
  repair: { snapshot: Snapshot; until: Lsn; unsettled: ReadonlySet<string> },
): Side {
  if (repair.unsettled.has(String(xid))) return 'awaited'
  return lsn < repair.until && repair.snapshot.sees(xid) ? 'table' : 'wal'
}

/** The full id of a transaction of which 32 bits are known: the one within 2^31 of `near`. */
export function nearestXid(xid: number, near: bigint): bigint {
  const difference = BigInt.asIntN(32, BigInt(xid) - near)
  return near + difference
}
