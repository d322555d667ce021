import { queryOf, type Transaction } from '../outbox/transaction.js'
import type { Stage } from './fault.js'

/** What a query returns, of whatever library: rows, or an object that has them. */
export type QueryResult = readonly unknown[] | { readonly rows: readonly unknown[] }

/**
 * The workers' database through any library: how to run a function in a transaction of isolation level READ COMMITTED, and
 * how to run a statement in it. `query` may be left out where the transaction is one of `pg`, Drizzle or Kysely.
 *
 *     { transaction: (run) => db.transaction(run) }                                                      // Drizzle
 *     { transaction: (run) => db.transaction().execute(run) }                                            // Kysely
 *     { transaction: (run) => prisma.$transaction(run), query: (tx, text, values) => tx.$queryRawUnsafe(text, ...values) }
 *
 * `transaction` commits when the function's promise resolves, and rolls back and rejects when it rejects.
 */
export interface DatabaseAdapter<Tx> {
  transaction<Result>(run: (tx: Tx) => Promise<Result>): Promise<Result>
  query?(tx: Tx, text: string, values: string[]): PromiseLike<QueryResult>
  /** How many transactions may be open at once, where that is known: a higher concurrency is refused. */
  maxTransactions?: number | undefined
}

/** A `pg` Pool, as far as it is used here. */
export interface PgPool {
  connect: { (): Promise<PgClient>; (callback: never): void }
  readonly options?: { readonly max?: number | undefined }
  readonly totalCount: number
}

interface PgClient {
  query(text: string, values?: unknown[]): Promise<{ command: string; rows: unknown[] }>
  escapeLiteral(text: string): string
  release(error?: Error | boolean): void
  on(event: 'error', listener: (error: Error) => void): unknown
  removeListener(event: 'error', listener: (error: Error) => void): unknown
  getTransactionStatus?(): string | null
}

/** What `createConsumer` takes as `db`. */
// biome-ignore lint/suspicious/noExplicitAny: an adapter of any transaction.
export type DatabaseOption = PgPool | DatabaseAdapter<any>

/** The transaction that handlers get with such a database. */
export type TransactionOf<Db> = Db extends { transaction: (run: (tx: infer Tx) => Promise<never>) => unknown }
  ? Tx
  : Db extends { connect: { (): Promise<infer Client>; (callback: never): void } }
    ? Client
    : never

/** An error, and where in a transaction it came from. */
export class TransactionFailure extends Error {
  override name = 'TransactionFailure'
  readonly stage: Stage
  readonly broken: boolean

  constructor(cause: unknown, stage: Stage, broken: boolean) {
    super('A transaction failed', { cause })
    this.stage = stage
    this.broken = broken
  }
}

/** The workers' database, as the library uses it. */
export interface Database {
  readonly maxTransactions: number | undefined
  /**
   * Runs `open`, what the library itself does first, and unless that says no, `work`, in one transaction; resolves once it is
   * committed, with what `work` returned. Rejects with a TransactionFailure, rolled back or of unknown outcome.
   */
  transaction<Opened, Result>(
    open: (query: RowQuery) => Promise<Opened | undefined>,
    work: (tx: unknown, opened: Opened, query: RowQuery) => Promise<Result>,
  ): Promise<{ opened: Opened; result: Result } | undefined>
}

/** Runs a statement whose values are all text; its rows. */
export type RowQuery = (text: string, values: string[]) => Promise<readonly Record<string, unknown>[]>

export function databaseOf(option: DatabaseOption): Database {
  const found = option as object as Record<string, unknown> | null
  if (typeof found === 'object' && found !== null) {
    if ('totalCount' in found && typeof found.connect === 'function') return new PgDatabase(option as PgPool)
    if (typeof found.transaction === 'function' && typeof found.connect !== 'function') {
      return new AdaptedDatabase(option as DatabaseAdapter<unknown>)
    }
  }
  throw new TypeError(
    'Expected db to be a Pool of pg, or { transaction(run), query(tx, text, values) } for another library, found ' +
      `${found === null ? 'null' : typeof found === 'object' ? 'an object of another kind' : typeof found}. ` +
      'Drizzle: { transaction: (run) => db.transaction(run) }; Kysely: { transaction: (run) => db.transaction().execute(run) }.',
  )
}

class PgDatabase implements Database {
  readonly #pool: PgPool

  constructor(pool: PgPool) {
    this.#pool = pool
  }

  get maxTransactions(): number {
    return this.#pool.options?.max ?? 10
  }

  async transaction<Opened, Result>(
    open: (query: RowQuery) => Promise<Opened | undefined>,
    work: (tx: unknown, opened: Opened, query: RowQuery) => Promise<Result>,
  ): Promise<{ opened: Opened; result: Result } | undefined> {
    let stage: Stage = 'opening'
    let client: PgClient | undefined
    let broken: Error | undefined
    // The pool takes its own listener away while a client is out; without one, a lost connection would end the process.
    const note = (error: Error) => {
      broken = error
    }
    try {
      client = await this.#pool.connect()
      client.on('error', note)
      const query = rowQueryOf(client)
      await client.query('begin isolation level read committed read write')
      const opened = await open(query)
      if (opened === undefined) {
        await client.query('rollback')
        return undefined
      }
      stage = 'handler'
      const result = await work(client, opened, query)
      if (client.getTransactionStatus?.() === 'I') throw new Error(ENDED)
      stage = 'commit'
      const { command } = await client.query('commit')
      // What Postgres answers to a COMMIT of a transaction that a failed statement has aborted: no error, and nothing done.
      if (command === 'ROLLBACK') throw new Error(ABORTED)
      return { opened, result }
    } catch (error) {
      if (client && !broken) {
        await client.query('rollback').catch(note)
      }
      throw new TransactionFailure(error, stage, broken !== undefined)
    } finally {
      client?.removeListener('error', note)
      client?.release(broken)
    }
  }
}

class AdaptedDatabase implements Database {
  readonly #adapter: DatabaseAdapter<unknown>

  constructor(adapter: DatabaseAdapter<unknown>) {
    this.#adapter = adapter
  }

  get maxTransactions(): number | undefined {
    return this.#adapter.maxTransactions
  }

  async transaction<Opened, Result>(
    open: (query: RowQuery) => Promise<Opened | undefined>,
    work: (tx: unknown, opened: Opened, query: RowQuery) => Promise<Result>,
  ): Promise<{ opened: Opened; result: Result } | undefined> {
    let stage: Stage = 'opening'
    try {
      return await this.#adapter.transaction(async (tx) => {
        // An adapter may run the function again by itself.
        stage = 'opening'
        const query = rowQueryOf(tx, this.#adapter)
        const opened = await open(query)
        if (opened === undefined) return undefined
        stage = 'handler'
        const result = await work(tx, opened, query)
        // A statement that failed, and whose error the handler has swallowed, has aborted the transaction; some libraries
        // then commit without an error, and nothing is done. Any statement tells.
        await query('select 1', [])
        stage = 'commit'
        return { opened, result }
      })
    } catch (error) {
      throw new TransactionFailure(error, stage, false)
    }
  }
}

const ENDED =
  'Expected the transaction to be open when the handler returns, found that it was ended. The library commits it together ' +
  'with the record that the event is done: take COMMIT and ROLLBACK out of the handler, and throw to roll back.'
const ABORTED =
  'Expected the transaction to commit, found that a statement in it had failed: Postgres rolled it back. Let the error of ' +
  'a statement be thrown, or put what may fail behind a savepoint.'

/** The rows of a statement, of whatever library. */
export function rowQueryOf(tx: unknown, adapter?: DatabaseAdapter<unknown>): RowQuery {
  const query = adapter?.query
    ? (text: string, values: string[]) => (adapter.query as NonNullable<typeof adapter.query>)(tx, text, values)
    : queryOf(tx as Transaction)
  return async (text, values) => {
    const result = (await query(text, values)) as QueryResult
    const rows = Array.isArray(result) ? result : (result as { rows?: unknown } | undefined)?.rows
    if (Array.isArray(rows)) return rows
    throw new TypeError(
      'Expected query(tx, text, values) to return the rows of the statement, or { rows }, found neither. See DatabaseAdapter.',
    )
  }
}
