import type { SessionState, Stage } from './error-class.js'

/** What was thrown, where in a transaction, and how its connection stood then. */
export class TransactionFailedError extends Error {
  override name = 'TransactionFailedError'
  readonly stage: Stage
  readonly session: SessionState

  constructor(cause: unknown, stage: Stage, session: SessionState) {
    super('A transaction failed', { cause })
    this.stage = stage
    this.session = session
  }

  /** Any other error is one of the handler, and its connection is not to blame. */
  static of(error: unknown): TransactionFailedError {
    return error instanceof TransactionFailedError ? error : new TransactionFailedError(error, 'handler', 'open')
  }
}

/** A statement whose values are all text. */
export interface Statement {
  text: string
  values: string[]
}

export type QueryRow = Record<string, unknown>

/** Runs a statement in a transaction that is open; its rows. */
export type RowQuery = (text: string, values: string[]) => Promise<readonly QueryRow[]>

/** What is done in a transaction. */
export interface Transacted<Opened> {
  /** What the library itself asks first. */
  first: Statement
  /** What to make of the answer; undefined: there is nothing to do, and the transaction ends. */
  read(rows: readonly QueryRow[]): Opened | undefined
  work(tx: unknown, opened: Opened, query: RowQuery): Promise<unknown>
  /** Whatever the default of the database is. */
  readCommitted?: boolean
}

/** The workers' database, as the library uses it. */
export interface Database {
  readonly maxTransactions: number | undefined
  /** Resolves with what was read once the work is committed. Rejects with a TransactionFailedError: rolled back, or no one knows. */
  transaction<Opened>(what: Transacted<Opened>): Promise<Opened | undefined>
  /** One statement, committed. */
  query(statement: Statement): Promise<readonly QueryRow[]>
  /**
   * Listens for the loss of connections that are not in use, until the returned function is called. An `error` event of a pool
   * that no one listens for ends the process.
   */
  onIdleLoss(listener: (error: Error) => void): () => void
  /** How many requests of others, such as a handler, wait for a connection; 0 where that is not known. */
  waitingOthers(): number
}
