/**
 * Runs one statement with text parameters, `$1` …, in the open transaction. `publish` ignores the result. `accept` of
 * 'outrider/consumer' needs the rows, or `{ rows }`.
 */
export type Query = (text: string, values: string[]) => PromiseLike<unknown>

/** A `pg` Client or PoolClient, between `BEGIN` and `COMMIT`. The compiler refuses a Pool, because it has no `escapeLiteral`. */
export interface PgTransaction {
  query: Query
  escapeLiteral(text: string): string
}

/** The `tx` of a Drizzle Postgres transaction. The compiler refuses a Drizzle database, because it has no `rollback`. */
export interface DrizzleTransaction {
  execute(query: never): PromiseLike<unknown>
  rollback(): never
  setTransaction(config: never): Promise<void>
}

/** The `trx` of a Kysely transaction. `isTransaction` of a Kysely database is false. */
export interface KyselyTransaction {
  readonly isTransaction: true
  executeQuery(query: never): Promise<unknown>
}

/**
 * The `manager` of a TypeORM transaction. A manager outside a transaction has the same type; `publish` refuses it at run
 * time. The compiler refuses a DataSource, because it has no `release`.
 */
export interface TypeOrmManager {
  readonly queryRunner?: TypeOrmRunner | undefined
  getRepository(target: never): unknown
  release(): Promise<void>
}

/** A TypeORM QueryRunner between `startTransaction()` and `commitTransaction()`. */
export interface TypeOrmRunner {
  readonly isTransactionActive: boolean
  startTransaction(): Promise<void>
}

/** The `trx` of a Knex transaction. The compiler refuses a Knex instance, because it has no `isCompleted`. */
export interface KnexTransaction {
  raw(text: string, values: string[]): PromiseLike<unknown>
  isCompleted(): boolean
  readonly executionPromise: Promise<unknown>
}

/**
 * For any other library: one function that runs a statement in the open transaction. All values are strings.
 *
 *     sql.begin((tx) => publish({ query: (text, values) => tx.unsafe(text, values) }, OrderPlaced, { data }))   // postgres.js
 *
 * A pool or a database also has a `query`. The types exclude it by `connect` and `transaction`.
 */
export interface TransactionAdapter {
  query: Query
  connect?: never
  transaction?: never
}

/** An open transaction: the first argument of `publish`. */
export type Transaction =
  | PgTransaction
  | DrizzleTransaction
  | KyselyTransaction
  | TypeOrmManager
  | TypeOrmRunner
  | KnexTransaction
  | TransactionAdapter

/** Thrown if the first argument of `publish` or `accept` is not an open transaction. Nothing was sent to Postgres then. */
export class TransactionError extends Error {
  override name = 'TransactionError'

  constructor(found: string, advice: string) {
    super(
      `Expected an open transaction, found ${found}. An event is published in the transaction of the change that it tells ` +
        `of, and accepted in that of its effects: ${advice}`,
    )
  }
}

/** How to run a statement in this transaction. Throws a TransactionError on what is none, as far as that can be seen. */
export function queryOf(tx: Transaction): Query {
  if ((typeof tx !== 'object' && typeof tx !== 'function') || tx === null) {
    throw new TransactionError(tx === null ? 'null' : typeof tx, 'pass the transaction as the first argument.')
  }
  const found = tx as object as Record<string, unknown>
  const can = (...methods: string[]) => methods.every((method) => typeof found[method] === 'function')
  if (can('executeQuery')) return kysely(tx as KyselyTransaction)
  if (can('execute', 'transaction')) return drizzle(tx as DrizzleTransaction, can('rollback', 'setTransaction'))
  if (can('raw', 'transaction')) return knex(tx as KnexTransaction, can('isCompleted'))
  if (can('getRepository', 'transaction')) return typeOrm((tx as TypeOrmManager).queryRunner)
  if (can('query', 'startTransaction')) return typeOrm(tx as TypeOrmRunner)
  if (can('query', 'connect')) return pg(tx as PgTransaction & Partial<PgClient>)
  if (can('query', 'transaction')) {
    throw new TransactionError('a database that begins transactions itself', 'pass the transaction that it gave you.')
  }
  if (can('query')) return (text, values) => (tx as TransactionAdapter).query(text, values)
  throw new TransactionError(
    'an object of another kind',
    'pass a pg client, a transaction of Drizzle, Kysely, Knex or TypeORM, or { query: (text, values) => … } for another library.',
  )
}

interface PgClient {
  getTransactionStatus(): string | null
  totalCount: number
}

function pg(client: PgTransaction & Partial<PgClient>): Query {
  if ('totalCount' in client) {
    throw new TransactionError(
      'a pool, which runs every statement on a connection of its own',
      "const client = await pool.connect(), then await client.query('BEGIN') and pass the client.",
    )
  }
  return (text, values) => {
    // Older versions of pg do not know it.
    if (client.getTransactionStatus?.() === 'I') {
      throw new TransactionError('a client outside a transaction', "await client.query('BEGIN') before publishing.")
    }
    return client.query(text, values)
  }
}

/**
 * Drizzle's `execute` takes anything with `getSQL()`, and asks what that returns for its text and parameters by `toQuery()`.
 * https://github.com/drizzle-team/drizzle-orm/blob/main/drizzle-orm/src/pg-core/dialect.ts (sqlToQuery)
 */
function drizzle(tx: DrizzleTransaction, isTransaction: boolean): Query {
  if (!isTransaction) {
    throw new TransactionError('a Drizzle database', 'db.transaction((tx) => publish(tx, …)), and pass its tx.')
  }
  const execute = tx.execute.bind(tx) as (query: object) => PromiseLike<unknown>
  return (sql, params) => {
    const query = { sql, params }
    return execute({ getSQL: () => ({ toQuery: () => query }) })
  }
}

/** https://github.com/kysely-org/kysely/blob/master/src/query-compiler/compiled-query.ts (CompiledQuery.raw) */
function kysely(tx: KyselyTransaction): Query {
  if (tx.isTransaction !== true) {
    throw new TransactionError(
      'a Kysely database',
      'db.transaction().execute((trx) => publish(trx, …)), and pass its trx.',
    )
  }
  const execute = tx.executeQuery.bind(tx) as (query: object) => Promise<unknown>
  return (sql, parameters) =>
    execute({
      sql,
      parameters,
      query: { kind: 'RawNode', sqlFragments: [sql], parameters: [] },
      queryId: { queryId: 'outrider' },
    })
}

/**
 * Knex numbers the parameters itself, one for each `?`, and takes a `?` of the statement's own as `\\?`.
 * https://knexjs.org/guide/raw.html
 */
function knex(trx: KnexTransaction, isTransaction: boolean): Query {
  if (!isTransaction) {
    throw new TransactionError('a Knex instance', 'knex.transaction((trx) => publish(trx, …)), and pass its trx.')
  }
  return (text, values) => {
    if (trx.isCompleted()) {
      throw new TransactionError('a Knex transaction that has ended', 'publish before it commits.')
    }
    const bindings: string[] = []
    const raw = text.replace(/\?|\$(\d+)/g, (found, n?: string) => {
      if (n === undefined) return `\\${found}`
      bindings.push(values[Number(n) - 1] as string)
      return '?'
    })
    return trx.raw(raw, bindings)
  }
}

/** TypeORM's plain result of an UPDATE or DELETE is not its rows; the structured one has them for each statement. */
function typeOrm(runner: TypeOrmRunner | undefined): Query {
  if (runner?.isTransactionActive !== true) {
    throw new TransactionError(
      runner
        ? 'a TypeORM QueryRunner outside a transaction'
        : 'a TypeORM DataSource, or an EntityManager outside a transaction',
      runner
        ? 'await queryRunner.startTransaction() before publishing.'
        : 'dataSource.transaction((manager) => publish(manager, …)), and pass its manager.',
    )
  }
  const { query } = runner as TypeOrmRunner & { query: StructuredQuery }
  return async (text, values) => ({ rows: (await query.call(runner, text, values, true)).records })
}

type StructuredQuery = (text: string, values: string[], structured: true) => Promise<{ records: unknown }>
