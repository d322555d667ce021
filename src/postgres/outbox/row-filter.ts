import pg from 'pg'
import { fromTxid } from './txid-index.js'

/** Which rows of Outrider's own table are meant. */
export interface RowFilter {
  /** In milliseconds since 1970: `created_at` is not before it. */
  since?: number | undefined
  stream?: string | undefined
  type?: string | undefined
}

/** The clocks of applications and of the server may differ by so much. */
const CLOCK_SKEW = '10 minutes'

/**
 * SQL: the condition for a row `o`. For the statements that follow on this connection: what was committed long before `since` is not
 * read. `created_at` may be given by an application, and a row that claims to be younger than its commit is not found.
 */
export async function rowCondition(
  client: pg.ClientBase,
  lineage: string,
  { since, stream, type }: RowFilter,
): Promise<string> {
  const conditions: string[] = []
  if (since !== undefined) {
    const { rows } = await client.query<{ first: string }>(
      `select pg_snapshot_xmin(snapshot)::text as first from outrider.checkpoint
       where lineage = $1 and taken_at < to_timestamp($2) - interval '${CLOCK_SKEW}' order by lsn desc limit 1`,
      [lineage, since / 1000],
    )
    conditions.push(await fromTxid(client, rows[0]?.first))
    conditions.push(`o.created_at >= to_timestamp(${since / 1000})`)
  } else await fromTxid(client, undefined)
  if (stream !== undefined) conditions.push(`o.stream = ${pg.escapeLiteral(stream)}`)
  if (type !== undefined) conditions.push(`o.type = ${pg.escapeLiteral(type)}`)
  return conditions.length === 0 ? 'true' : conditions.join(' and ')
}
