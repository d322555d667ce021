import type pg from 'pg'
import { fromTxid } from './txid-index.js'

/** SQL: the next transaction id of the server, as the statement sees it. */
const NEXT_XID = '(select pg_snapshot_xmax(pg_current_snapshot())::text::bigint)'

const XMIN = 'o.xmin::text::bigint'

/**
 * SQL: the full id of the transaction that wrote the row `o` last, of which a row keeps 32 bits. It may be that of a subtransaction, which a
 * snapshot does not name.
 */
export const LAST_WRITE = `(case when ${XMIN} < 3 then 0 else ${NEXT_XID} - 1 - ((${NEXT_XID} - 1 - ${XMIN}) & 4294967295) end)`

/**
 * SQL: the row `o` of Outrider's own table has the id of a transaction that this server has not begun, so that it was restored from another
 * cluster. A statement sees no row of a transaction from its snapshot's upper bound on.
 */
export const IS_FROM_ELSEWHERE = `(o.txid::text)::bigint >= ${NEXT_XID}`

/** Is any row of the table, or of a partition, from elsewhere? By the index of inserting transactions in milliseconds. `table`: quoted. */
export async function hasRowsFromElsewhere(client: pg.ClientBase, table: string): Promise<boolean> {
  const { rows } = await client.query<{ next: string }>('select pg_snapshot_xmax(pg_current_snapshot())::text as next')
  const { rowCount } = await client.query(
    `select from ${table} as o where ${await fromTxid(client, rows[0]!.next)} and ${IS_FROM_ELSEWHERE} limit 1`,
  )
  await fromTxid(client, undefined)
  return rowCount !== 0
}
