import pg from 'pg'
import { ExitCode, Failure } from '../failure.js'

/** A table, its names as they stand in the catalogue, without quotes. */
export interface TableName {
  schema: string
  name: string
}

/** Reads `schema.table`; letters keep their case. */
export function parseTable(text: string): TableName {
  const dot = text.indexOf('.')
  if (dot < 1 || dot === text.length - 1) {
    throw new Failure(`outbox.table: expected schema.table, found ${JSON.stringify(text)}.`, {
      exitCode: ExitCode.usage,
    })
  }
  return { schema: text.slice(0, dot), name: text.slice(dot + 1) }
}

export const quoteTable = ({ schema, name }: TableName): string =>
  `${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(name)}`

/** An SQL expression: the tables that inherit from `oid`, as a JSON array of `schema.table`. */
export const childrenOf = (oid: string): string =>
  `(select coalesce(json_agg(kn.nspname::text || '.' || k.relname::text order by kn.nspname, k.relname), '[]')
    from pg_inherits join pg_class as k on k.oid = inhrelid join pg_namespace as kn on kn.oid = k.relnamespace
    where inhparent = ${oid} and not k.relispartition)`

/** Throws a Failure unless it is a table whose inserts are written to WAL, so that they can be published. */
export async function requirePublishable(client: pg.ClientBase, { schema, name }: TableName): Promise<void> {
  const { rows } = await client.query<{ kind: string; persistence: string; children: string[] }>(
    `select relkind as kind, relpersistence as persistence, ${childrenOf('c.oid')} as children
     from pg_class as c join pg_namespace as n on n.oid = relnamespace
     where nspname = $1 and relname = $2`,
    [schema, name],
  )
  const table = rows[0]
  const found = !table
    ? 'nothing of this name; upper and lower case count'
    : !'rp'.includes(table.kind)
      ? 'something that is not a table'
      : table.persistence !== 'p'
        ? 'an unlogged or temporary table, whose rows never reach the WAL'
        : table.children.length > 0
          ? `that ${table.children.join(', ')} inherits from it: rows of such a table are not published. Use partitions instead, or end it ` +
            'with `alter table … no inherit …`'
          : undefined
  if (found) {
    throw new Failure(`outbox.table: expected the table ${schema}.${name}, found ${found}.`, {
      exitCode: ExitCode.usage,
    })
  }
}

/** Lets the relay read a table that is not Outrider's own. */
export async function grantReading(client: pg.ClientBase, table: TableName): Promise<void> {
  await client.query(`grant usage on schema ${client.escapeIdentifier(table.schema)} to outrider_relay`)
  await client.query(`grant select on ${quoteTable(table)} to outrider_relay`)
}
