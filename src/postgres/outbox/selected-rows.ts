import type pg from 'pg'
import { type RowFilter, rowCondition } from './row-filter.js'

/** Rows of one stream and type. */
export interface SelectedRows {
  stream: string
  type: string
  rows: number
  /** By `created_at`. */
  oldest: Date
  newest: Date
}

const SELECT = `select stream, type, count(*)::float8 as rows, min(created_at) as oldest, max(created_at) as newest
  from outrider.outbox as o`
const GROUP = 'group by stream, type order by stream, type'

/** How many rows a filter selects. */
export async function countSelected(
  client: pg.ClientBase,
  lineage: string,
  filter: RowFilter,
): Promise<SelectedRows[]> {
  const condition = await rowCondition(client, lineage, filter)
  const { rows } = await client.query<SelectedRows>(`${SELECT} where ${condition} ${GROUP}`)
  return rows
}

/** How many rows these ids have, and which of them have none. */
export async function countNamed(
  client: pg.ClientBase,
  ids: readonly string[],
): Promise<{ selected: SelectedRows[]; absent: string[] }> {
  const selected = await client.query<SelectedRows>(`${SELECT} where o.id = any ($1::uuid[]) ${GROUP}`, [ids])
  const absent = await client.query<{ id: string }>(
    `select id::text from unnest($1::uuid[]) as id
     where not exists (select from outrider.outbox as o where o.id = any (array[id.id])) order by id`,
    [ids],
  )
  return { selected: selected.rows, absent: absent.rows.map(({ id }) => id) }
}

/** Is it the name of a stream that the lineage has published to, or that a row has? Then one that no row names is no mistake. */
export async function knownStreams(client: pg.ClientBase, lineage: string): Promise<string[]> {
  const { rows } = await client.query<{ stream: string }>(
    "select distinct split_part(stream_key, ':', 1) as stream from outrider.head where lineage = $1 order by stream",
    [lineage],
  )
  return rows.map(({ stream }) => stream)
}
