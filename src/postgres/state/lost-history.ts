import type pg from 'pg'
import { BUCKETS } from '../outbox/buckets.js'

/** Streams of a gap that may lack events which the outbox does not keep any more. */
export interface LostHistory {
  incident: string
  streams: number
}

/** Streams that the incident names one by one. */
const NAMED_STREAMS = 20

/**
 * Records, once for a gap, which of its streams a repair cannot make whole: what is known to be in them, or to be finished by every group,
 * reaches back less far than what retention has emptied; or an event that left the stream unfinished is not in the table any more.
 * Undefined: all of them can be. To be called when the bounds of the streams are known.
 */
export async function recordLostHistory(
  client: pg.ClientBase,
  lineage: string,
  gap: string,
): Promise<LostHistory | undefined> {
  const lost = await client.query<{ streams: number; first: string[]; until: Date }>(
    `select count(*)::float8 as streams, (array_agg(stream_key order by stream_key))[1:${NAMED_STREAMS}] as first, until
     from (
       select distinct stream_key, e.until
       from outrider.gap_stream as g join outrider.incident as i on i.id = g.incident join outrider.lineage as l using (lineage)
         join outrider.emptied as e using (lineage)
         left join outrider.horizon as h using (lineage, stream_key)
       where lineage = $1 and i.closed_at is null and i.repaired_at is null
         and not ${covers('coalesce(g.snapshot, l.first_snapshot)', 'e.snapshot')}
         and (not ${covers('h.snapshot', 'e.snapshot')} or exists (
           select from outrider.moved_event as m where m.lineage = l.lineage and m.stream_key = g.stream_key
             and ${IS_GONE}))
     ) as stream
     group by until`,
    [lineage],
  )
  const [found] = lost.rows
  if (!found) return undefined
  const detail = { gap, streams: found.streams, first: found.first, emptied_until: found.until.toISOString() }
  const { rows } = await client.query<{ id: string }>(
    `with known as (
       update outrider.incident set detail = $3
       where lineage = $1 and kind = 'operator' and reason = 'history_lost' and detail ->> 'gap' = $2 returning id
     ), opened as (
       insert into outrider.incident (lineage, kind, reason, detail)
       select $1, 'operator', 'history_lost', $3 where not exists (select from known) returning id
     )
     select id::text from known union all select id::text from opened`,
    [lineage, gap, JSON.stringify(detail)],
  )
  return { incident: rows[0]!.id, streams: found.streams }
}

/** SQL: does one snapshot see every transaction that the other one sees? False where there is none. */
const covers = (snapshot: string, other: string): string =>
  `(${snapshot} is not null and pg_snapshot_xmax(${snapshot}) >= pg_snapshot_xmax(${other})
    and not exists (select from pg_snapshot_xip(${snapshot}) as xid where pg_visible_in_snapshot(xid, ${other})))`

/**
 * SQL: no bucket has the row of `m`, an event of this table: an id that is no UUID is of none. Not a join: each bucket is asked by its key,
 * however large it is.
 */
const IS_GONE = `case when m.event_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (
  select true from generate_series(0, ${BUCKETS.length - 1}) as bucket join outrider.outbox as o using (bucket)
  where o.id = m.event_id::uuid limit 1) is null else false end`
