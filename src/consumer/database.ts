import { queryOf, type Transaction } from '../outbox/transaction.js'
import { sqlState } from '../postgres/transaction.js'
import { HandlerTimeoutError } from './delivery/handler-timeout.js'
import { errorsOf } from './delivery/thrown.js'
import type { Session, Stage } from './fault.js'
import { type AudibleClient, RaisedErrors, sessionOf } from './inbox/session.js'

/** What a query returns, of whatever library: rows, or an object that has them. */
export type QueryResult = readonly unknown[] | { readonly rows: readonly unknown[] }

/**
 * The workers' database through any library: how to run a function in a transaction of isolation level READ COMMITTED, and
 * how to run a statement in it. `query` may be left out where the transaction is one of `pg`, Drizzle, Kysely, Knex or TypeORM.
 *
 *     { transaction: (run) => db.transaction(run) }                                                      // Drizzle
 *     { transaction: (run) => db.transaction().execute(run) }                                            // Kysely
 *     { transaction: (run) => knex.transaction(run) }                                                    // Knex
 *     { transaction: (run) => dataSource.transaction(run) }                                              // TypeORM
 *     { transaction: (run) => prisma.$transaction(run), query: (tx, text, values) => tx.$queryRawUnsafe(text, ...values) }
 *
 * `transaction` commits when the function's promise resolves, and rolls back and rejects when it rejects. It resolves to what
 * the function resolves to; from that, the compiler knows what handlers get as `tx`.
 */
export interface DatabaseAdapter<Tx> {
  transaction(run: <Given>(tx: Given) => Promise<Ran<Given>>): Promise<Ran<Tx>>
  query?(tx: Tx, text: string, values: string[]): PromiseLike<QueryResult>
  /** How many transactions may be open at once, where that is known: a higher concurrency is refused. */
  maxTransactions?: number | undefined
  /** A Knex instance also has a `transaction`, and is none. */
  raw?: never
}

declare const given: unique symbol

/** What became of a function that was run in a transaction: to be passed on as it is. */
export interface Ran<Tx> {
  readonly [given]: Tx
}

/** A `pg` Pool, as far as it is used here. */
export interface PgPool {
  connect: { (): Promise<PgClient>; (callback: never): void }
  query(text: string, values: unknown[]): Promise<{ rows: unknown[] }>
  on(event: 'error', listener: (error: Error) => void): unknown
  removeListener(event: 'error', listener: (error: Error) => void): unknown
  readonly options?: { readonly max?: number | undefined }
  readonly totalCount: number
  readonly waitingCount: number
}

interface PgClient extends AudibleClient {
  readonly processID?: number
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
export type TransactionOf<Db> = Db extends { transaction: (run: never) => Promise<Ran<infer Tx>> }
  ? Tx
  : Db extends { connect: { (): Promise<infer Client>; (callback: never): void } }
    ? Client
    : never

/** What was thrown, where in a transaction, and how its connection stood then. */
export class TransactionFailure extends Error {
  override name = 'TransactionFailure'
  readonly stage: Stage
  readonly session: Session

  constructor(cause: unknown, stage: Stage, session: Session) {
    super('A transaction failed', { cause })
    this.stage = stage
    this.session = session
  }
}

/** A statement whose values are all text. */
export interface Statement {
  text: string
  values: string[]
}

export type Row = Record<string, unknown>

/** Runs a statement in a transaction that is open; its rows. */
export type RowQuery = (text: string, values: string[]) => Promise<readonly Row[]>

/** What is done in a transaction. */
export interface Transacted<Opened> {
  /** What the library itself asks first. */
  first: Statement
  /** What to make of the answer; undefined: there is nothing to do, and the transaction ends. */
  read(rows: readonly Row[]): Opened | undefined
  work(tx: unknown, opened: Opened, query: RowQuery): Promise<unknown>
  /** Whatever the default of the database is. */
  readCommitted?: boolean
}

/** The workers' database, as the library uses it. */
export interface Database {
  readonly maxTransactions: number | undefined
  /** Resolves with what was read once the work is committed. Rejects with a TransactionFailure: rolled back, or nobody knows. */
  transaction<Opened>(what: Transacted<Opened>): Promise<Opened | undefined>
  /** One statement, committed. */
  query(statement: Statement): Promise<readonly Row[]>
  /**
   * Listens for the loss of connections that are not in use, until the returned function is called. An `error` event of a pool
   * that no one listens for ends the process.
   */
  onIdleLoss(listener: (error: Error) => void): () => void
  /** How many requests of others, such as a handler, wait for a connection; 0 where that is not known. */
  waitingOthers(): number
}

export function databaseOf(option: DatabaseOption): Database {
  const found = option as object as Record<string, unknown> | null
  if (typeof found === 'object' && found !== null) {
    if ('totalCount' in found && typeof found.connect === 'function') return new PgDatabase(option as PgPool)
    // Databases of Kysely and TypeORM have a transaction, too, and one of Drizzle a query that is no function: none is an adapter.
    const isOther =
      ['connect', 'executeQuery', 'getRepository'].some((name) => name in found) ||
      typeof (found.query ?? databaseOf) !== 'function'
    if (typeof found.transaction === 'function' && !isOther) return new AdaptedDatabase(option as Adapter)
  }
  throw new TypeError(
    'Expected db to be a Pool of pg, or { transaction(run), query(tx, text, values) } for another library, found ' +
      `${found === null ? 'null' : typeof found === 'object' ? 'an object of another kind' : typeof found}. ` +
      'Drizzle: { transaction: (run) => db.transaction(run) }; Kysely: { transaction: (run) => db.transaction().execute(run) }; ' +
      'Knex: { transaction: (run) => knex.transaction(run) }; TypeORM: { transaction: (run) => dataSource.transaction(run) }.',
  )
}

class PgDatabase implements Database {
  readonly #pool: PgPool
  /** Requests of the library itself that may wait for a connection. */
  #asking = 0

  constructor(pool: PgPool) {
    this.#pool = pool
  }

  get maxTransactions(): number {
    return this.#pool.options?.max ?? 10
  }

  async query({ text, values }: Statement): Promise<readonly Row[]> {
    const { rows } = await this.#ask(() => this.#pool.query(text, values))
    return rows as Row[]
  }

  waitingOthers(): number {
    return Math.max(0, this.#pool.waitingCount - this.#asking)
  }

  async #ask<T>(request: () => Promise<T>): Promise<T> {
    this.#asking += 1
    try {
      return await request()
    } finally {
      this.#asking -= 1
    }
  }

  onIdleLoss(listener: (error: Error) => void): () => void {
    this.#pool.on('error', listener)
    return () => this.#pool.removeListener('error', listener)
  }

  async transaction<Opened>({ first, read, work, readCommitted }: Transacted<Opened>): Promise<Opened | undefined> {
    let stage: Stage = 'opening'
    let client: PgClient | undefined
    let raised: RaisedErrors | undefined
    let broken: Error | undefined
    let timedOut: HandlerTimeoutError | undefined
    // The pool takes its own listener away while a client is out; without one, a lost connection would end the process.
    const note = (error: Error) => {
      // The first: behind what the server says pg tells that the connection has ended.
      broken ??= error
    }
    try {
      client = await this.#ask(() => this.#pool.connect())
      client.on('error', note)
      raised = new RaisedErrors(client)
      // In one message: of the statements of a short transaction, BEGIN would cost as much as any other.
      const begin = readCommitted ? 'begin isolation level read committed' : 'begin'
      const [, answer] = (await client.query(`${begin}; ${inlined(client, first)}`)) as unknown as { rows: Row[] }[]
      const opened = read((answer as { rows: Row[] }).rows)
      if (opened === undefined) {
        await client.query('rollback')
        return undefined
      }
      stage = 'handler'
      await work(client, opened, rowQueryOf(client))
      // Before the commit is sent, so that what the server says of a handler which took too long is an attempt of it.
      if (broken) throw broken
      if (client.getTransactionStatus?.() === 'I') throw new Error(ENDED)
      stage = 'commit'
      const { command } = await client.query('commit')
      // What Postgres answers to a COMMIT of a transaction that a failed statement has aborted: no error, and nothing done.
      if (command === 'ROLLBACK') throw new Error(ABORTED)
      return opened
    } catch (error) {
      let session: Session = 'aborted'
      const [thrown] = errorsOf(error)
      // A statement of it may still run, which a ROLLBACK would wait for.
      if (thrown instanceof HandlerTimeoutError) timedOut = thrown
      else if (client && !broken) {
        if (stage === 'handler' && !raised?.includesAny(errorsOf(error))) session = await sessionOf(rowQueryOf(client))
        await client.query('rollback').catch(note)
      }
      // What the server said when it ended the session tells more than that the next statement found no connection.
      if (broken) throw new TransactionFailure(causeOf(broken) ?? error, stage, 'ended')
      throw new TransactionFailure(error, stage, timedOut ? 'open' : session)
    } finally {
      raised?.close()
      client?.removeListener('error', note)
      client?.release(broken ?? timedOut)
      if (timedOut) await this.#cancel(client)
    }
  }

  /** Ends the statement of a session whose connection was closed: the server would find that out only after it. */
  async #cancel(client: PgClient | undefined): Promise<void> {
    const text =
      'select pg_terminate_backend(pid) as ended from pg_stat_activity where pid = $1::int and usename = current_user'
    await this.query({ text, values: [String(client?.processID ?? 0)] }).catch(() => {})
  }
}

const causeOf = (broken: Error): Error | undefined => (sqlState(broken) === undefined ? undefined : broken)

/** As one text, because a message of several statements takes no parameters. Every `$n` in it is one. */
const inlined = (client: PgClient, { text, values }: Statement): string =>
  text.replace(/\$(\d+)/g, (_, n) => client.escapeLiteral(values[n - 1] as string))

/** An adapter as it is run: what it passes on is whatever it is given. */
type Adapter = Omit<DatabaseAdapter<unknown>, 'transaction'> & {
  transaction<Result>(run: (tx: unknown) => Promise<Result>): Promise<Result>
}

class AdaptedDatabase implements Database {
  readonly #adapter: Adapter

  constructor(adapter: Adapter) {
    this.#adapter = adapter
  }

  get maxTransactions(): number | undefined {
    return this.#adapter.maxTransactions
  }

  async query({ text, values }: Statement): Promise<readonly Row[]> {
    return this.#run((tx) => rowQueryOf(tx, this.#adapter)(text, values))
  }

  waitingOthers(): number {
    return 0
  }

  /** What a library does with its connections is its own. */
  onIdleLoss(): () => void {
    return () => {}
  }

  async transaction<Opened>({ first, read, work }: Transacted<Opened>): Promise<Opened | undefined> {
    let stage: Stage = 'opening'
    let failed: TransactionFailure | undefined
    try {
      return await this.#run(async (tx) => {
        // An adapter may run the function again by itself.
        stage = 'opening'
        failed = undefined
        const query = rowQueryOf(tx, this.#adapter)
        const opened = read(await query(first.text, first.values))
        if (opened === undefined) return undefined
        stage = 'handler'
        try {
          await work(tx, opened, query)
          // A statement that failed, and whose error the handler has swallowed, has aborted the transaction; some libraries
          // then commit without an error, and nothing is done. Any statement tells.
          await query('select 1 as alive', [])
        } catch (error) {
          failed = new TransactionFailure(error, 'handler', await sessionOf(query))
          // As it is: the adapter may look at it.
          throw error
        }
        stage = 'commit'
        return opened
      })
    } catch (error) {
      // A rollback that fails, too, tells less.
      throw failed ?? new TransactionFailure(error, stage, 'aborted')
    }
  }

  /** An adapter that passes on something else has waited neither for the function nor for its commit. */
  async #run<Result>(work: (tx: unknown) => Promise<Result>): Promise<Result> {
    let outcome: { result: Result } | undefined
    const passed = await this.#adapter.transaction(async (tx) => {
      outcome = { result: await work(tx) }
      return outcome
    })
    if (passed === undefined || passed !== outcome) throw new TypeError(NOT_PASSED_ON)
    return passed.result
  }
}

const ENDED =
  'Expected the transaction to be open when the handler returns, found that it was ended. The library commits it together ' +
  'with the record that the event is done: take COMMIT and ROLLBACK out of the handler, and throw to roll back.'
const NOT_PASSED_ON =
  'Expected transaction(run) to resolve to what run resolves to, once that is committed, found something else. ' +
  'See DatabaseAdapter.'
const ABORTED =
  'Expected the transaction to commit, found that a statement in it had failed: Postgres rolled it back. Let the error of ' +
  'a statement be thrown, or put what may fail behind a savepoint.'

/** The rows of a statement, of whatever library. */
export function rowQueryOf(tx: unknown, adapter?: Pick<Adapter, 'query'>): RowQuery {
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
