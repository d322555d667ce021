import type pg from 'pg'

/** What the database says of trimming by a lineage. */
export interface Trimming {
  /** Streams without settings of their own are trimmed. */
  byDefault: boolean
  /** Lineages of this database that publish no more. */
  retired: string[]
}

export async function readTrimming(client: pg.ClientBase, lineage: string): Promise<Trimming> {
  const { rows } = await client.query<Trimming>(
    `select trims as "byDefault",
       array(select other.lineage::text from outrider.lineage as other where other.retired_at is not null) as retired
     from outrider.lineage as l where l.lineage = $1`,
    [lineage],
  )
  return rows[0] ?? { byDefault: false, retired: [] }
}

/** The new lineage trims as the old one did, and waits for the same groups. */
export async function inheritTrimming(client: pg.ClientBase, from: string, to: string): Promise<void> {
  await client.query(
    'update outrider.lineage set trims = (select trims from outrider.lineage where lineage = $1) where lineage = $2',
    [from, to],
  )
  await client.query(
    `insert into outrider.consumer_group (lineage, stream_key, consumer_group, floor)
     select $2, stream_key, consumer_group, '0-0' from outrider.consumer_group where lineage = $1`,
    [from, to],
  )
}
