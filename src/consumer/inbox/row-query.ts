import { queryOf, type Transaction } from '../../producer/transaction.js'
import type { RowQuery } from './database.js'
import type { DatabaseAdapter, QueryResult } from './database-adapter.js'

/** The rows of a statement, of whatever library. */
export function rowQueryOf(tx: unknown, adapter?: Pick<DatabaseAdapter<unknown>, 'query'>): RowQuery {
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
