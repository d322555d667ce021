import type pg from 'pg'
import { BUCKETS } from '../outbox/buckets.js'
import { CLOSED_FOR } from './gaps.js'

/** Deleted by one statement. */
const AT_ONCE = 1_000

/**
 * Deletes incidents of a lineage, and of those that have ended, that were closed long ago: some of them. Resolves with how many.
 *
 * One of a rejected row stays as long as the row does: a repair and an audit leave the row out because of it. That is known of
 * Outrider's own table alone. One that still names the streams of a gap stays until these are forgotten.
 */
export async function pruneIncidents(client: pg.ClientBase, lineage: string): Promise<number> {
  const { rowCount } = await client.query(
    `delete from outrider.incident where id = any (array(
       select i.id from outrider.incident as i join outrider.lineage as l using (lineage)
       where closed_at < now() - interval '${CLOSED_FOR}' and (lineage = $1 or l.retired_at is not null)
         and not exists (select from outrider.gap_stream where incident = i.id)
         and (kind <> 'rejected' or ${IS_ROW_GONE})
       order by closed_at limit ${AT_ONCE}))`,
    [lineage],
  )
  return rowCount ?? 0
}

/** SQL. The first two conditions are cheap: where nothing as old was emptied, the row is there. */
const IS_ROW_GONE = `(l.outbox_table = 'outrider.outbox'
    and exists (select from outrider.emptied as e where e.lineage = l.lineage and e.until > i.opened_at)
    and case when event_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (
      select true from generate_series(0, ${BUCKETS.length - 1}) as bucket join outrider.outbox as o using (bucket)
      where o.id = event_id::uuid limit 1) is null end)`
