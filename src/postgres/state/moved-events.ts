import type pg from 'pg'

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
