import type pg from 'pg'
import { OWN_OUTBOX } from '../config/schema.js'
import type { Lineage } from './lineage.js'
import { inTransaction, sqlState } from './transaction.js'

/** The table may be large and counting is a courtesy: it gives up after so long, in milliseconds. */
const COUNT_MS = 5_000
const QUERY_CANCELED = '57014'

/**
 * Adds to the open gaps of streams how many events are lost at most, as `events` in their detail: the rows of the stream
 * between the head that Redis still has and the saved one, by `seq`, which is nearly the order of commits. Left out where
 * it cannot be told: a partitioned stream, a mapped table, rows that the table no longer holds, a table too large. A gap
 * whose detail has `events` already is left as it is.
 */
export async function countLost(client: pg.ClientBase, lineage: Lineage): Promise<void> {
  if (lineage.outboxTable !== OWN_OUTBOX.table) return
  try {
    await inTransaction(client, async () => {
      await client.query(`set local statement_timeout = ${COUNT_MS}`)
      await client.query(COUNT, [lineage.lineage])
    })
  } catch (error) {
    if (sqlState(error) !== QUERY_CANCELED) throw error
  }
}

const COUNT = `
  with gap as (
    select incident.id, incident.stream, coalesce(found.seq, 0) as after, expected.seq as until
      from outrider.incident
      join outrider.outbox as expected on expected.id::text = detail #>> '{expected,event}'
      left join outrider.outbox as found on found.id::text = detail #>> '{found,event}' and detail ->> 'after' is not null
     where lineage = $1 and kind = 'gap' and reason = 'stream_behind' and closed_at is null and not detail ? 'events'
       and (found.id is not null or detail ->> 'after' is null)
  ), counted as (
    select gap.id, count(*) as events
      from gap join outrider.outbox as o on o.stream = gap.stream and o.seq > after and o.seq <= until
     group by gap.id
  )
  update outrider.incident as i set detail = detail || jsonb_build_object('events', events)
    from counted where counted.id = i.id`
