import type pg from 'pg'
import { childrenOf, parseTable, quoteTableName } from './table-name.js'
import { type UnloggedPartition, unloggedPartitionsOf } from './unlogged-partitions.js'

/** The table that a publication publishes. The publication follows its oid, whatever becomes of its name. */
export interface PublishedTable {
  oid: number
  /** `schema.table`, as it is named now. */
  table: string
  /** What bears the expected name; undefined: nothing. */
  namesake: { oid: number; isTable: boolean } | undefined
  /** Tables that inherit from it and are no partitions: their rows look like its own, and are not published as such. */
  children: string[]
  /** Its partitions whose rows never reach the WAL. */
  unlogged: UnloggedPartition[]
}

/** Undefined where the publication is missing or publishes no table. `expected`: the name that the table should have. */
export async function readPublishedTable(
  client: pg.ClientBase,
  publication: string,
  expected: string,
): Promise<PublishedTable | undefined> {
  const { schema, name } = parseTable(expected)
  const { rows } = await client.query<
    Omit<PublishedTable, 'namesake'> & { namesake: PublishedTable['namesake'] | null }
  >(
    `select c.oid, nspname::text || '.' || c.relname::text as table,
       (select json_build_object('oid', s.oid::bigint, 'isTable', s.relkind in ('r', 'p'))
        from pg_class as s join pg_namespace as sn on sn.oid = s.relnamespace
        where sn.nspname = $3 and s.relname = $4) as namesake,
       ${childrenOf('c.oid')} as children, ${unloggedPartitionsOf('c.oid')} as unlogged
     from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
     where c.oid = outrider.outbox_oid($1, $2)`,
    [publication, expected, schema, name],
  )
  return rows[0] && { ...rows[0], namesake: rows[0].namesake ?? undefined }
}

/** The statements that end the inheritance: the rows of the children stay where they are. */
export const endInheritance = (parent: string, children: readonly string[]): string =>
  children.map((child) => `alter table ${quoteTableName(child)} no inherit ${quoteTableName(parent)};`).join('\n')

/** Remembers the published table as one that this lineage publishes from, beside those it has published from before. */
export async function recordPublishedTable(client: pg.ClientBase, lineage: string): Promise<void> {
  await client.query(
    `update outrider.lineage as l set outbox_oids = array_remove(outbox_oids, published.oid) || published.oid
     from (select lineage, outrider.outbox_oid(publication, outbox_table) as oid from outrider.lineage) as published
     where l.lineage = $1 and published.lineage = l.lineage and published.oid is not null`,
    [lineage],
  )
}
