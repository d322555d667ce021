import type { Lsn } from '../../src/postgres/client/lsn.js'
import { Snapshot } from '../../src/postgres/state/snapshot.js'
import type { TakenSnapshot } from './decisions.js'
import type { Random } from './random.js'

/** Streams as rows name them; one has partitions. */
const STREAMS = ['a', 'b', 'p']
export const PARTITIONS: Readonly<Record<string, number>> = { p: 2 }
export const KEYS = ['a', 'b', 'p:0', 'p:1']

export const keysOf = (stream: string): string[] => KEYS.filter((key) => key.split(':')[0] === stream)

export interface Row {
  id: string
  stream: string
  key: string
  subject: number
  transaction: Transaction
  /** As the row's own column says: the top-level transaction. */
  xid: bigint
  seq: number
  /** The publication left it out. */
  hidden: Hole | undefined
  /** The head of its stream was deleted before it was confirmed, or while the leader did not know that it was. */
  isForgotten: boolean
  /** A session that no longer leads appended it. */
  isStray: boolean
}

/** `committing`: its commit record is written, and it waits for a standby: no snapshot sees it yet. */
export type Outcome = 'open' | 'committing' | 'committed' | 'aborted'

export interface Transaction {
  xid: bigint
  outcome: Outcome
  rows: Row[]
  /** Ids of subtransactions that were rolled back. */
  commitLsn: Lsn
  endLsn: Lsn
  /** The order of commit records. */
  committed: number
  isLong: boolean
  isHeld: boolean
  /** Takes the lock of a subject before it inserts; the others insert first, and lock before they commit. */
  locksFirst: boolean
  /** It was committing when a repair took its snapshot, or when a checkpoint was taken. */
  heldAt: Set<'repair' | 'checkpoint'>
}

/** How the publication leaves rows out. */
export type Hole = 'dropped' | 'narrowed'

interface Slot {
  confirmed: Lsn
  isLost: boolean
}

/**
 * A model of Postgres: transactions with savepoints, long ones, and commits that wait for a standby; WAL in the order of commit records;
 * a slot, and a publication. A prepared transaction is a long one. Not modelled: timelines and standbys, other tables, vacuum.
 */
export class Postgres {
  lsn: Lsn = 64n
  nextXid = 100n
  #completed = 99n
  readonly active: Transaction[] = []
  /** Commits in the order of their records. */
  readonly wal: Transaction[] = []
  readonly table: Row[] = []
  slot: Slot | undefined = { confirmed: 64n, isLost: false }
  /** What a restart goes back to. */
  savedSlot: Lsn = 64n
  hole: Hole | undefined
  #publication = 0
  /** From PostgreSQL 18 on. Before, what was written while there was no publication cannot be decoded. */
  readonly decodesHoles: boolean
  readonly tracksCommits: boolean
  readonly #random: Random
  readonly #rolledBack = new Set<bigint>()
  readonly #ended = new Map<bigint, Transaction>()
  readonly #snapshots = new Map<string, TakenSnapshot>()
  #seq = 0

  constructor(random: Random) {
    this.#random = random
    this.decodesHoles = random.chance(0.6)
    this.tracksCommits = random.chance(0.5)
  }

  /** As `outrider.publication_state`; null: there is none. */
  get publicationState(): string | null {
    return this.hole === 'dropped' ? null : String(this.#publication)
  }

  alterPublication(hole: Hole | undefined): void {
    this.hole = hole
    this.#publication += 1
  }

  /** As `pg_current_snapshot()`: above the highest id that has ended, running transactions are not named. */
  takeSnapshot(what: 'repair' | 'checkpoint' | 'first'): string {
    const xmax = this.#completed + 1n
    let xmin = xmax
    let running = ''
    let count = 0
    for (const transaction of this.active) {
      if (what !== 'first' && transaction.outcome === 'committing') transaction.heldAt.add(what)
      const { xid } = transaction
      if (xid >= xmax) continue
      if (xid < xmin) xmin = xid
      running += count++ === 0 ? xid : `,${xid}`
    }
    const text = `${xmin}:${xmax}:${running}`
    if (!this.#snapshots.has(text)) {
      this.#snapshots.set(text, { text, xmin, xmax, running: count, snapshot: new Snapshot(text) })
    }
    return text
  }

  snapshotOf(text: string): TakenSnapshot {
    return this.#snapshots.get(text)!
  }

  /** As `pg_current_xact_id()`, of a statement that ends at once. */
  takeXid(): bigint {
    const xid = this.nextXid++
    this.#completed = xid
    return xid
  }

  /** As `pg_xact_status`. */
  statusOf(xid: bigint): 'in progress' | 'committed' | 'aborted' {
    if (this.#rolledBack.has(xid)) return 'aborted'
    const ended = this.#ended.get(xid)
    if (ended) return ended.outcome === 'committed' ? 'committed' : 'aborted'
    return this.active.some((transaction) => transaction.xid === xid) ? 'in progress' : 'aborted'
  }

  isOpen(transaction: Transaction): boolean {
    return transaction.outcome === 'open' || transaction.outcome === 'committing'
  }

  /** A writer does something. `isCalm`: nothing begins, and everything ends. */
  act(isCalm: boolean): void {
    const random = this.#random
    if (!isCalm && (this.active.length === 0 || (this.active.length < 4 && random.chance(0.4)))) {
      this.#begin()
      return
    }
    const transaction = this.active[random.int(this.active.length)]
    if (!transaction) return
    if (transaction.outcome === 'committing') {
      if (!transaction.isHeld || isCalm || random.chance(0.1)) this.#end(transaction, 'committed')
      return
    }
    if (transaction.isLong && !isCalm && random.chance(0.85)) return
    const roll = random.next()
    if (roll < 0.5 && transaction.rows.length < 3 && !isCalm) this.#insert(transaction)
    else if (roll < 0.56) this.#rollBackToSavepoint(transaction)
    else if (roll < 0.62) this.#abort(transaction)
    else this.#commit(transaction)
  }

  /** The server restarts: what was not prepared is rolled back, and the slot may be older than it was. */
  restart(): void {
    for (const transaction of [...this.active]) {
      if (transaction.outcome === 'committing') this.#end(transaction, 'committed')
      else if (!transaction.isLong) this.#abort(transaction)
    }
    if (this.slot && this.savedSlot < this.slot.confirmed) this.slot.confirmed = this.savedSlot
  }

  createSlot(): void {
    this.slot = { confirmed: this.lsn, isLost: false }
    this.savedSlot = this.lsn
  }

  #begin(): void {
    const random = this.#random
    this.active.push({
      ...{ xid: this.nextXid++, outcome: 'open', rows: [], commitLsn: 0n, endLsn: 0n, committed: 0, heldAt: new Set() },
      ...{ isLong: random.chance(0.12), isHeld: random.chance(0.1), locksFirst: random.chance(0.7) },
    })
    this.#insert(this.active.at(-1)!)
  }

  #insert(transaction: Transaction): void {
    const random = this.#random
    const subject = random.int(6)
    if (transaction.locksFirst && this.#isLocked(subject, transaction)) return
    const stream = STREAMS[subject % STREAMS.length]!
    const partitions = PARTITIONS[stream]
    const row: Row = {
      ...{ id: `e${this.#seq}`, stream, subject, transaction, xid: transaction.xid, seq: this.#seq++ },
      key: partitions ? `${stream}:${Math.floor(subject / STREAMS.length) % partitions}` : stream,
      hidden: this.hole,
      isForgotten: false,
      isStray: false,
    }
    transaction.rows.push(row)
    this.lsn += 8n
  }

  #isLocked(subject: number, by: Transaction): boolean {
    return this.active.some(
      (other) =>
        other !== by &&
        (other.locksFirst || other.outcome === 'committing') &&
        other.rows.some((row) => row.subject === subject),
    )
  }

  /** A subtransaction with its own id, whose row is rolled back. */
  #rollBackToSavepoint(transaction: Transaction): void {
    const xid = this.nextXid++
    this.#rolledBack.add(xid)
    if (xid > this.#completed) this.#completed = xid
    if (transaction.rows.length > 1) transaction.rows.pop()
    this.lsn += 16n
  }

  #commit(transaction: Transaction): void {
    if (!transaction.locksFirst && transaction.rows.some(({ subject }) => this.#isLocked(subject, transaction))) return
    transaction.outcome = 'committing'
    transaction.commitLsn = this.lsn
    this.lsn += 8n
    transaction.endLsn = this.lsn
    if (this.#random.chance(0.3)) this.lsn += 16n
    transaction.committed = this.wal.push(transaction)
    if (!transaction.isHeld && this.#random.chance(0.7)) this.#end(transaction, 'committed')
  }

  #abort(transaction: Transaction): void {
    this.lsn += 8n
    this.#end(transaction, 'aborted')
  }

  #end(transaction: Transaction, outcome: Outcome): void {
    transaction.outcome = outcome
    this.active.splice(this.active.indexOf(transaction), 1)
    this.#ended.set(transaction.xid, transaction)
    if (transaction.xid > this.#completed) this.#completed = transaction.xid
    if (outcome === 'committed') this.table.push(...transaction.rows)
  }
}
