import type pg from 'pg'
import { sqlState } from '../client/transaction.js'

/** How far the repair of a lineage is. */
export interface RepairProgress {
  beganAt: Date
  /** How often it began. */
  attempts: number
  /** Events that were missing; null while they are looked for. */
  found: number | null
  /** Of their rows. */
  bytes: number | null
  putBack: number
  /** Events a second, since it began; null where there is nothing to measure yet. */
  perSecond: number | null
  /** Transactions that were open when the snapshot was taken, of which it is not known yet that their rows are in the streams. */
  unsettled: number
  /** Those of them that are prepared, by gid: they stay open until a person, or a transaction manager, ends them. */
  prepared: string[]
}

interface ProgressRow {
  began_at: Date
  attempts: number
  found: number | null
  bytes: number | null
  put_back: number
  seconds: number
  unsettled: number
}

/** Undefined: no repair is under way. */
export async function readRepairProgress(client: pg.ClientBase, lineage: string): Promise<RepairProgress | undefined> {
  const { rows } = await client.query<ProgressRow>(
    `select began_at, attempts, found::float8, bytes::float8, put_back::float8, cardinality(unsettled) as unsettled,
       extract(epoch from clock_timestamp() - began_at)::float8 as seconds
     from outrider.repair where lineage = $1`,
    [lineage],
  )
  const [row] = rows
  if (!row) return undefined
  const { began_at, put_back, seconds, ...same } = row
  return {
    ...same,
    beganAt: began_at,
    putBack: put_back,
    perSecond: put_back > 0 && seconds > 0 ? put_back / seconds : null,
    prepared: row.unsettled > 0 ? await readPrepared(client, lineage) : [],
  }
}

const INSUFFICIENT_PRIVILEGE = '42501'

/** None where the view is not readable. */
async function readPrepared(client: pg.ClientBase, lineage: string): Promise<string[]> {
  try {
    const { rows } = await client.query<{ gid: string }>(
      `select gid from pg_prepared_xacts, outrider.repair, unnest(unsettled) as open
       where lineage = $1 and open::xid = transaction order by gid`,
      [lineage],
    )
    return rows.map(({ gid }) => gid)
  } catch (error) {
    if (sqlState(error) === INSUFFICIENT_PRIVILEGE) return []
    throw error
  }
}
