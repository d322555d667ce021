import { quoteTableName } from './table-name.js'

/** A partition, at any depth, whose rows are never written to the WAL of this server: they cannot be published. */
export interface UnloggedPartition {
  /** `schema.table`, like `parent`. */
  partition: string
  /** The table that it is directly a partition of. */
  parent: string
  kind: 'unlogged' | 'foreign'
}

/** An SQL expression: these partitions of `oid`, as a JSON array. It locks none of them, unlike `pg_partition_tree`. */
export const unloggedPartitionsOf = (oid: string): string =>
  `(with recursive tree (partition, parent) as (
      select inhrelid, inhparent from pg_inherits where inhparent = ${oid}
      union all
      select inhrelid, inhparent from pg_inherits join tree on inhparent = tree.partition
    )
    select coalesce(json_agg(json_build_object(
        'partition', pn.nspname::text || '.' || p.relname::text,
        'parent', rn.nspname::text || '.' || r.relname::text,
        'kind', case p.relkind when 'f' then 'foreign' else 'unlogged' end
      ) order by pn.nspname, p.relname), '[]')
    from tree
      join pg_class as p on p.oid = tree.partition join pg_namespace as pn on pn.oid = p.relnamespace
      join pg_class as r on r.oid = tree.parent join pg_namespace as rn on rn.oid = r.relnamespace
    where p.relispartition and (p.relkind = 'f' or p.relkind = 'r' and p.relpersistence <> 'p'))`

/** For messages: `shop.events_1 (unlogged), shop.events_2 (foreign)`. */
export const describeUnlogged = (partitions: readonly UnloggedPartition[]): string =>
  partitions.map(({ partition, kind }) => `${partition} (${kind})`).join(', ')

/** The statements after which no row goes to them unlogged; the rows stay where they are. */
export const endUnlogged = (partitions: readonly UnloggedPartition[]): string =>
  partitions
    .map(({ partition, parent, kind }) =>
      kind === 'foreign'
        ? `alter table ${quoteTableName(parent)} detach partition ${quoteTableName(partition)};`
        : `alter table ${quoteTableName(partition)} set logged;`,
    )
    .join('\n')

/** What an incident's detail holds of them. */
export function unloggedIn(detail: object): UnloggedPartition[] {
  const found: unknown = Reflect.get(detail, 'partitions')
  return Array.isArray(found) ? found.filter(isUnlogged) : []
}

function isUnlogged(value: unknown): value is UnloggedPartition {
  if (typeof value !== 'object' || value === null) return false
  const { partition, parent, kind } = value as Partial<Record<keyof UnloggedPartition, unknown>>
  return typeof partition === 'string' && typeof parent === 'string' && (kind === 'unlogged' || kind === 'foreign')
}
