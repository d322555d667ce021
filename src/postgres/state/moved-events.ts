import type pg from 'pg'
import { isUndisputed } from './checkpoints.js'

/** Records events that left their stream unfinished: see `outrider.moved_event`. */
export async function saveMoved(
  client: pg.ClientBase,
  lineage: string,
  key: string,
  ids: readonly string[],
): Promise<void> {
  if (ids.length === 0) return
  await client.query(
    `insert into outrider.moved_event (lineage, stream_key, event_id)
     select $1, $2, unnest($3::text[]) on conflict do nothing`,
    [lineage, key, ids],
  )
}

/** Rows that one statement reads or deletes. */
const AT_ONCE = 1_000

/** The keys of streams that rows name. */
export async function movedStreams(client: pg.ClientBase, lineage: string): Promise<string[]> {
  // The next key each time, by the index: a stream may have many rows.
  const { rows } = await client.query<{ key: string }>(
    `with recursive stream as (
       (select stream_key from outrider.moved_event where lineage = $1 order by stream_key limit 1)
       union all
       select (select m.stream_key from outrider.moved_event as m where lineage = $1 and m.stream_key > stream.stream_key
               order by m.stream_key limit 1)
       from stream where stream_key is not null
     )
     select stream_key as key from stream where stream_key is not null`,
    [lineage],
  )
  return rows.map(({ key }) => key)
}

/** The ids of the events of a stream that are recorded, some of them: those behind `after`, in their order. */
export async function loadMoved(client: pg.ClientBase, lineage: string, key: string, after: string): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `select event_id as id from outrider.moved_event where lineage = $1 and stream_key = $2 and event_id > $3
     order by event_id limit ${AT_ONCE}`,
    [lineage, key, after],
  )
  return rows.map(({ id }) => id)
}

/** Deletes rows of events that all groups have finished since, unless another session leads or a gap is open. Resolves with how many. */
export async function forgetMoved(
  client: pg.ClientBase,
  own: { lineage: string; session: string },
  key: string,
  ids: readonly string[],
): Promise<number> {
  const { rowCount } = await client.query(
    `delete from outrider.moved_event as m using outrider.lineage as l
     where l.lineage = $1 and m.lineage = l.lineage and m.stream_key = $3 and m.event_id = any ($4) and ${isUndisputed('l', '$2')}`,
    [own.lineage, own.session, key, ids],
  )
  return rowCount ?? 0
}
