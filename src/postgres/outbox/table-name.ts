import pg from 'pg'
import { ExitCode, OutriderError } from '../../base/failure.js'

/** A table, its names as they stand in the catalogue, without quotes. */
export interface TableName {
  schema: string
  name: string
}

/** Reads `schema.table`; letters keep their case. */
export function parseTable(text: string): TableName {
  const dot = text.indexOf('.')
  if (dot < 1 || dot === text.length - 1) {
    throw new OutriderError(`outbox.table: expected schema.table, found ${JSON.stringify(text)}.`, {
      exitCode: ExitCode.usage,
    })
  }
  return { schema: text.slice(0, dot), name: text.slice(dot + 1) }
}

export const quoteTable = ({ schema, name }: TableName): string =>
  `${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(name)}`

/** The same from `schema.table`. */
export const quoteTableName = (text: string): string => quoteTable(parseTable(text))

/** An SQL expression: the tables that inherit from `oid`, as a JSON array of `schema.table`. */
export const childrenOf = (oid: string): string =>
  `(select coalesce(json_agg(kn.nspname::text || '.' || k.relname::text order by kn.nspname, k.relname), '[]')
    from pg_inherits join pg_class as k on k.oid = inhrelid join pg_namespace as kn on kn.oid = k.relnamespace
    where inhparent = ${oid} and not k.relispartition)`

/** Lets the relay read a table that is not Outrider's own. */
export async function grantReading(client: pg.ClientBase, table: TableName): Promise<void> {
  await client.query(`grant usage on schema ${client.escapeIdentifier(table.schema)} to outrider_relay`)
  await client.query(`grant select on ${quoteTable(table)} to outrider_relay`)
}
