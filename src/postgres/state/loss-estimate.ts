import type pg from 'pg'
import { OWN_OUTBOX } from '../../config/schema.js'
import { inTransaction, sqlState } from '../client/transaction.js'
import type { Lineage } from './lineage.js'

/** The table may be large and counting is a courtesy: it gives up after so long, in milliseconds. */
const COUNT_MS = 5_000
const QUERY_CANCELED = '57014'

/**
 * Adds to the streams of open gaps how many events are lost at most, as `events` in their detail: the rows of the stream
 * between the head that Redis still has and the saved one, by `seq`, which is nearly the order of commits. Left out where
 * it cannot be told: a partitioned stream, a mapped table, rows that the table no longer holds, a table too large. A
 * stream whose detail has `events` already is left as it is, and so is one whose events were put back.
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
    select g.incident, g.stream_key, coalesce(found.seq, 0) as after, expected.seq as until
      from outrider.gap_stream as g
      join outrider.incident as i on i.id = g.incident
      join outrider.outbox as expected on expected.id::text = g.detail #>> '{expected,event}'
      left join outrider.outbox as found
        on found.id::text = g.detail #>> '{found,event}' and g.detail ->> 'after' is not null
     where i.lineage = $1 and kind = 'gap' and reason = 'stream_behind' and closed_at is null and repaired_at is null
       and not g.detail ? 'events' and (found.id is not null or g.detail ->> 'after' is null)
  ), counted as (
    select gap.incident, stream_key, count(*) as events
      from gap join outrider.outbox as o on o.stream = stream_key and o.seq > after and o.seq <= until
     group by gap.incident, stream_key
  )
  update outrider.gap_stream as g set detail = detail || jsonb_build_object('events', events)
    from counted where counted.incident = g.incident and counted.stream_key = g.stream_key`
