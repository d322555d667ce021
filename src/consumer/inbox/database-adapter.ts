import type { AudibleClient } from './session.js'

/** The result of `query` in an adapter: the rows, or an object with the rows. */
export type QueryResult = readonly unknown[] | { readonly rows: readonly unknown[] }

/**
 * Connects the consumer to a database through any library. `transaction` runs a function in a transaction; `query` runs a
 * statement in it. Use the isolation level READ COMMITTED; an ordered consumer requires it. `query` may be left out if
 * the transaction is one of `pg`, Drizzle, Kysely, Knex or TypeORM.
 *
 *     { transaction: (run) => db.transaction(run) }                                                      // Drizzle
 *     { transaction: (run) => db.transaction().execute(run) }                                            // Kysely
 *     { transaction: (run) => knex.transaction(run) }                                                    // Knex
 *     { transaction: (run) => dataSource.transaction(run) }                                              // TypeORM
 *     { transaction: (run) => prisma.$transaction(run), query: (tx, text, values) => tx.$queryRawUnsafe(text, ...values) }
 *
 * If the promise of the function resolves, `transaction` commits and resolves to the same value. If it rejects,
 * `transaction` rolls back and rejects. The compiler infers the type of `tx` in handlers from the value that
 * `transaction` passes to the function.
 */
export interface DatabaseAdapter<Tx> {
  transaction(run: <Given>(tx: Given) => Promise<Ran<Given>>): Promise<Ran<Tx>>
  query?(tx: Tx, text: string, values: string[]): PromiseLike<QueryResult>
  /**
   * The most transactions that can be open at once, such as the size of the pool. `createConsumer` refuses a higher
   * `concurrency`. Without it there is no check.
   */
  maxTransactions?: number | undefined
  /** Excludes a Knex instance, which also has a `transaction` but is not an adapter. */
  raw?: never
}

declare const given: unique symbol

/** The value that the function of `transaction` resolves to. An adapter must return it unchanged. */
export interface Ran<Tx> {
  readonly [given]: Tx
}

/** The part of a `pg` Pool that the consumer uses. */
export interface PgPool {
  connect: { (): Promise<PgClient>; (callback: never): void }
  query(text: string, values: unknown[]): Promise<{ rows: unknown[] }>
  on(event: 'error', listener: (error: Error) => void): unknown
  removeListener(event: 'error', listener: (error: Error) => void): unknown
  readonly options?: { readonly max?: number | undefined }
  readonly totalCount: number
  readonly waitingCount: number
}

/** A client of `pg`, as far as it is used here. */
export interface PgClient extends AudibleClient {
  readonly processID?: number
  query(text: string, values?: unknown[]): Promise<{ command: string; rows: unknown[] }>
  escapeLiteral(text: string): string
  release(error?: Error | boolean): void
  on(event: 'error', listener: (error: Error) => void): unknown
  removeListener(event: 'error', listener: (error: Error) => void): unknown
  getTransactionStatus?(): string | null
}

/** The type of the option `db`. */
// biome-ignore lint/suspicious/noExplicitAny: an adapter of any transaction.
export type DatabaseOption = PgPool | DatabaseAdapter<any>

/** The type of `tx` in handlers, for a given `db`. */
export type TransactionOf<Db> = Db extends { transaction: (run: never) => Promise<Ran<infer Tx>> }
  ? Tx
  : Db extends { connect: { (): Promise<infer Client>; (callback: never): void } }
    ? Client
    : never
