import { setTimeout as wait } from 'node:timers/promises'
import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { sqlState } from '../client/transaction.js'
import { hasTxidIndex, TXID_INDEX } from './txid-index.js'

/** The columns of Outrider's own table that `outrider find` searches by, besides the id. */
export type SearchColumn = 'subject' | 'correlation_id'

/** Those, and the one that repairs read by. */
export type IndexedColumn = SearchColumn | 'txid'

const definitionOf = (column: IndexedColumn): string => (column === 'txid' ? TXID_INDEX : `(${column})`)

const hasIndex = (client: pg.ClientBase, column: IndexedColumn): Promise<boolean> =>
  column === 'txid' ? hasTxidIndex(client) : hasSearchIndex(client, column)

/** Whether a valid index of the whole table begins with this column. */
export async function hasSearchIndex(client: pg.ClientBase, column: SearchColumn): Promise<boolean> {
  const { rowCount } = await client.query(
    `select from pg_index join pg_attribute on attrelid = indrelid and attnum = indkey[0]
     where indrelid = 'outrider.outbox'::regclass and attname = $1 and indisvalid and indpred is null`,
    [column],
  )
  return rowCount !== 0
}

/** How long a statement may wait for a lock that inserts queue behind. */
const LOCK_TIMEOUT = '1s'
const LOCK_TRIES = 30
const PAUSE_MS = 1_000

/** Any constant does; this one reads `outr` in ASCII, and 3. Setup and migrations have 2 and 1. */
const BUILD_LOCK = [0x6f757472, 3]

/**
 * Creates an index of Outrider's own table while writers continue: the parent's index is a catalogue entry, the partitions' are
 * built concurrently, then attached. Inserts queue behind a waiting lock for a second at most at a time. The parent's index is
 * valid once all are attached, so a run that was interrupted is completed by the next one. Not in a transaction, nor under the
 * lock of setup: a concurrent build waits for every session that waits for that.
 */
export async function createSearchIndex(client: pg.ClientBase, column: IndexedColumn): Promise<'created' | 'present'> {
  if (await hasIndex(client, column)) return 'present'
  const { rows } = await client.query('select pg_try_advisory_lock($1, $2) as locked', BUILD_LOCK)
  if (!rows[0].locked) throw new OutriderError('Another `outrider setup --index` runs. Let it end, then try again.')
  try {
    await client.query("select set_config('statement_timeout', '0', false)")
    await buildIndex(client, column)
  } finally {
    await client.query('reset statement_timeout; reset lock_timeout').catch(() => undefined)
    await client.query('select pg_advisory_unlock($1, $2)', BUILD_LOCK).catch(() => undefined)
  }
  return 'created'
}

async function buildIndex(client: pg.ClientBase, column: IndexedColumn): Promise<void> {
  const name = `outbox_${column}`
  // Asked first: the statement takes its lock also where the index exists.
  const { rows } = await client.query('select to_regclass($1) is not null as exists', [`outrider.${name}`])
  if (!rows[0].exists) await lockBriefly(client, `create index ${name} on only outrider.outbox ${definitionOf(column)}`)
  for (const { partition, isAttached, isInvalid } of await partitionsOf(client, name)) {
    if (isAttached) continue
    const index = `outrider.${indexName(partition, column)}`
    // A concurrent build waits for transactions that are open, and nothing waits for it.
    await client.query("select set_config('lock_timeout', '0', false)")
    if (isInvalid) await client.query(`drop index concurrently ${index}`)
    await client.query(
      `create index concurrently if not exists ${indexName(partition, column)} on outrider.${partition} ${definitionOf(column)}`,
    )
    await lockBriefly(client, `alter index outrider.${name} attach partition ${index}`)
  }
}

/** A statement whose lock conflicts with those of writers, or of readers that they then queue behind. */
async function lockBriefly(client: pg.ClientBase, statement: string): Promise<void> {
  await client.query("select set_config('lock_timeout', $1, false)", [LOCK_TIMEOUT])
  for (let tries = 1; ; tries++) {
    try {
      await client.query(statement)
      return
    } catch (error) {
      if (sqlState(error) !== '55P03' || tries === LOCK_TRIES) throw error
      await wait(PAUSE_MS)
    }
  }
}

const indexName = (partition: string, column: IndexedColumn): string => `${partition}_${column}`

interface Partition {
  partition: string
  isAttached: boolean
  /** A build of its index was interrupted. */
  isInvalid: boolean
}

async function partitionsOf(client: pg.ClientBase, index: string): Promise<Partition[]> {
  const { rows } = await client.query<Partition>(
    `select child.relname as partition,
       exists (
         select from pg_inherits as attached join pg_index as i on i.indexrelid = attached.inhrelid
         where attached.inhparent = $1::regclass and i.indrelid = child.oid
       ) as "isAttached",
       coalesce((select not indisvalid from pg_index
         where indexrelid = to_regclass(format('outrider.%I', child.relname || substr($2, length('outbox') + 1)))), false) as "isInvalid"
     from pg_inherits join pg_class as child on child.oid = inhrelid
     where inhparent = 'outrider.outbox'::regclass order by child.relname`,
    [`outrider.${index}`, index],
  )
  return rows
}
