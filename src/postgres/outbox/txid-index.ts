import type pg from 'pg'

/** What the index of Outrider's own table by inserting transactions has: there is no BRIN of `xid8` itself. */
export const TXID = '(txid::text)::bigint'

/**
 * Rows of one transaction lie side by side, so a range of 32 pages (256 kB) is summarized by its lowest and its highest id:
 * about 24 kB for a gigabyte.
 */
export const TXID_INDEX = `using brin ((${TXID})) with (pages_per_range = 32, autosummarize = on)`

/** The index is there, and covers every partition. Also for a role that may not use the schema: `to_regclass` would fail. */
export async function hasTxidIndex(client: pg.ClientBase): Promise<boolean> {
  const { rowCount } = await client.query(
    `select from pg_index join pg_class as c on c.oid = indexrelid join pg_namespace as n on n.oid = relnamespace
     where nspname = 'outrider' and relname = 'outbox_txid' and indisvalid`,
  )
  return rowCount !== 0
}

/** An SQL condition: transactions from this one on; `undefined`: all of them. For the statements that follow on this connection. */
export async function fromTxid(client: pg.ClientBase, first: string | undefined): Promise<string> {
  await preferIndex(client, first !== undefined)
  return first === undefined ? 'true' : `${TXID} >= ${BigInt(first)}`
}

/** An SQL condition: these transactions. For the statements that follow on this connection. */
export async function amongTxids(client: pg.ClientBase, xids: readonly string[]): Promise<string> {
  await preferIndex(client, true)
  return `${TXID} = any (array[${xids.map(BigInt).join(', ')}]::bigint[])`
}

/** Without statistics of the expression the planner takes a third of the table for wanted, and reads all of it. */
async function preferIndex(client: pg.ClientBase, isNarrow: boolean): Promise<void> {
  const reads = isNarrow && (await hasTxidIndex(client)) ? 'off' : 'on'
  await client.query("select set_config('enable_seqscan', $1, false)", [reads])
}
