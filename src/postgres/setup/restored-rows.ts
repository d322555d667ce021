import type pg from 'pg'
import { OWN_OUTBOX } from '../../config/schema.js'
import { inTransaction } from '../client/transaction.js'
import { hasRowsFromElsewhere, IS_FROM_ELSEWHERE, LAST_WRITE } from '../outbox/row-xid.js'
import { quoteTableName } from '../outbox/table-name.js'
import { hasTxidIndex } from '../outbox/txid-index.js'
import { serverIdentity } from '../state/lineage.js'

/** Pages that one statement looks at, and rewrites: 16 MB. */
const PAGES_AT_ONCE = 2_048

export interface Renewed {
  /** Rows that have another transaction id now. */
  renewed: number
  /** A gap is open: the rest is left as it is. */
  isBlocked: boolean
}

/**
 * Rows of Outrider's own table that were restored from another cluster (pg_dump, or logical replication) have the transaction ids of that
 * cluster, which mean nothing in a snapshot of this one: a repair would not put such a row back, or would put back one that this
 * lineage has never published, and its bucket would not be emptied. They get the id of the transaction that updates them.
 *
 * Certain are those whose transaction this server has not begun. Others are known only by comparison with the transaction that wrote the row
 * here. A savepoint makes the two differ as well, so these are renewed only before a lineage of the table publishes from this server, where
 * it makes no difference to a row that was inserted here.
 *
 * Each batch is a transaction, and what was renewed is not found again: it may be interrupted anywhere. The publication carries inserts alone.
 */
export async function renewTxids(
  client: pg.ClientBase,
  { outboxTable }: { outboxTable: string },
  pagesAtOnce = PAGES_AT_ONCE,
): Promise<Renewed> {
  let renewed = 0
  if (outboxTable !== OWN_OUTBOX.table) return { renewed, isBlocked: false }
  const { systemId } = await serverIdentity(client)
  const { isPublishing, isRestored } = await readLineages(client, systemId)
  // A setup that is only run again must not read the whole table; `outrider check` asks for the index.
  if (isPublishing && !(await hasTxidIndex(client))) return { renewed, isBlocked: false }
  for (const { partition, pages } of await partitionsOf(client)) {
    if (!isRestored && !(await hasRowsFromElsewhere(client, `only ${quoteTableName(partition)}`))) continue
    for (let page = 0; page < pages; page += pagesAtOnce) {
      const rows = await renewPages(client, partition, { from: page, to: page + pagesAtOnce, systemId, isRestored })
      if (rows === undefined) return { renewed, isBlocked: true }
      renewed += rows
    }
  }
  return { renewed, isBlocked: false }
}

/** `isRestored`: the schema knows a lineage of another server, and none that publishes from this one. */
async function readLineages(
  client: pg.ClientBase,
  systemId: string,
): Promise<{ isPublishing: boolean; isRestored: boolean }> {
  const { rows } = await client.query<{ here: boolean; elsewhere: boolean }>(
    `select coalesce(bool_or(system_id = $1 and retired_at is null and confirmed_lsn is not null), false) as here,
       coalesce(bool_or(system_id <> $1), false) as elsewhere
     from outrider.lineage`,
    [systemId],
  )
  const { here, elsewhere } = rows[0]!
  return { isPublishing: here, isRestored: elsewhere && !here }
}

async function partitionsOf(client: pg.ClientBase): Promise<{ partition: string; pages: number }[]> {
  const { rows } = await client.query<{ partition: string; pages: number }>(
    `select format('%s.%s', nspname, relname) as partition,
       (pg_relation_size(c.oid) / current_setting('block_size')::integer)::integer as pages
     from pg_inherits join pg_class as c on c.oid = inhrelid join pg_namespace as n on n.oid = relnamespace
     where inhparent = 'outrider.outbox'::regclass order by relname`,
  )
  return rows
}

/**
 * Undefined: a gap is open, and nothing was changed. Its repair reads rows by a snapshot and by transaction id at different moments, and would
 * take one that changes in between for a row that is not its own. No gap is opened before this transaction ends.
 */
async function renewPages(
  client: pg.ClientBase,
  partition: string,
  { from, to, systemId, isRestored }: { from: number; to: number; systemId: string; isRestored: boolean },
): Promise<number | undefined> {
  return inTransaction(client, async () => {
    await client.query("set local lock_timeout = '5s'; lock table outrider.incident in share mode")
    const gap = await client.query(
      `select from outrider.incident as i join outrider.lineage as l using (lineage)
       where kind = 'gap' and closed_at is null and repaired_at is null and retired_at is null and system_id = $1 limit 1`,
      [systemId],
    )
    if (gap.rowCount !== 0) return undefined
    const { rowCount } = await client.query(
      `update only ${quoteTableName(partition)} as o set txid = pg_current_xact_id()
       where ctid >= $1 and ctid < $2 and (${IS_FROM_ELSEWHERE}${isRestored ? ` or (o.txid::text)::bigint <> ${LAST_WRITE}` : ''})`,
      [`(${from},0)`, `(${to},0)`],
    )
    return rowCount ?? 0
  })
}

export const RENEWAL_BLOCKED =
  'Some rows of outrider.outbox have transaction ids of another cluster, and keep them while a gap is open: a repair would not find these rows. ' +
  'Run `outrider setup` again when no gap is open: see `outrider incidents`.'
