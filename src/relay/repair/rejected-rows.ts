import pg from 'pg'

/**
 * For a `with`: the rows of a lineage that an incident says cannot be published, as `rejected`. What Redis has refused is kept as the
 * entry that it would have been, and has the row's time as `time`. Those that a request could not append again do not count: the row may
 * have been published before.
 */
export const withRejected = (lineage: string): string =>
  `rejected as materialized (
     select event_id, split_part(stream, ':', 1) as stream,
            coalesce("row" ->> 'created_at', "row" ->> 'time')::timestamptz as created_at
       from outrider.incident where lineage = ${pg.escapeLiteral(lineage)} and kind = 'rejected' and event_id is not null
        and position !~ '[7f]-[89a-f][0-9a-f]{7}$'
   )`

/**
 * For a `where`: the row `o` of the outbox is none of `rejected`. An id alone does not say so: another stream may have it too, and the
 * event may have been inserted again, with its own id, in a form that was published.
 */
export const NOT_REJECTED = `not exists (
  select from rejected where event_id = o.id::text
    and coalesce(rejected.stream = o.stream, true) and coalesce(rejected.created_at = o.created_at, true))`
