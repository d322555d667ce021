import type pg from 'pg'
import { type FoundSlot, findSlot } from '../replication/slot-creation.js'

/** Why an event that was committed may not be published yet, as far as the role may see it. */
export interface Blockers {
  slot: FoundSlot | undefined
  /** What keeps the slot's relay from publishing, and what became of the event itself. */
  incidents: { id: string; kind: string; reason: string; stream: string | null }[]
}

export async function findBlockers(client: pg.ClientBase, slot: string, event: string): Promise<Blockers> {
  return { slot: await findSlot(client, slot), incidents: await findIncidents(client, slot, event) }
}

async function findIncidents(client: pg.ClientBase, slot: string, event: string): Promise<Blockers['incidents']> {
  if (!(await mayRead(client, 'outrider.incident'))) return []
  const { rows } = await client.query<Blockers['incidents'][number]>(
    `select id::text, kind, reason, stream from outrider.incident join outrider.lineage using (lineage)
     where slot = $1 and retired_at is null and closed_at is null and repaired_at is null
       and (kind in ('gap', 'foreign') or event_id = $2)
     order by id`,
    [slot, event],
  )
  return rows
}

/** The number of partitions of a stream, 0 when it has none; undefined where the role may not see it. */
export async function visiblePartitions(client: pg.ClientBase, stream: string): Promise<number | undefined> {
  if (!(await mayRead(client, 'outrider.stream'))) return undefined
  const { rows } = await client.query<{ partitions: number }>(
    'select partitions from outrider.stream where stream = $1',
    [stream],
  )
  return rows[0]?.partitions ?? 0
}

async function mayRead(client: pg.ClientBase, table: string): Promise<boolean> {
  const { rows } = await client.query<{ may: boolean | null }>(
    "select has_table_privilege(to_regclass($1), 'select') as may",
    [table],
  )
  return rows[0]!.may === true
}
