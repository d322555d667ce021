import type pg from 'pg'
import { ExitCode, OutriderError } from '../../base/failure.js'
import type { OutboxMapping } from '../../config/schema.js'
import type { TableName } from './table-name.js'

/** A column of a table, its type without domains. */
export interface OutboxColumn {
  name: string
  /** As Postgres writes it: `character varying(255)`. */
  type: string
  /** `pg_type.typname` and `typcategory` of the type that a domain stands on, or of the type itself. */
  base: string
  category: string
  /** A generated column is not sent to logical replication. */
  generated: boolean
}

/** Undefined: there is no such table. */
export async function readOutboxColumns(
  client: pg.ClientBase,
  { schema, name }: TableName,
): Promise<OutboxColumn[] | undefined> {
  const { rows } = await client.query<{ columns: OutboxColumn[] }>(
    `with recursive listed as (
       select c.oid from pg_class as c join pg_namespace as n on n.oid = relnamespace
       where nspname = $1 and relname = $2 and relkind in ('r', 'p')
     ), typed (attnum, name, type, generated, base) as (
       select attnum, attname::text, format_type(atttypid, atttypmod), attgenerated <> '', atttypid
       from pg_attribute join listed on attrelid = listed.oid where attnum > 0 and not attisdropped
       union all
       select attnum, name, type, generated, typbasetype
       from typed join pg_type on pg_type.oid = base where typtype = 'd'
     )
     select (
       select coalesce(json_agg(json_build_object('name', name, 'type', type, 'generated', generated, 'base', typname,
           'category', typcategory) order by attnum), '[]')
       from typed join pg_type on pg_type.oid = base where typtype <> 'd'
     ) as columns
     from listed`,
    [schema, name],
  )
  return rows[0]?.columns
}

export interface UnfitColumn {
  column: string
  /** The setting that names it. */
  setting: string
  found: string
  accepted: string
}

/** The columns of a mapping that the relay cannot publish from, because of their type or because they are generated. Pure. */
export function unfitColumns(mapping: OutboxMapping, columns: readonly OutboxColumn[]): UnfitColumn[] {
  const byName = new Map(columns.map((column) => [column.name, column]))
  return mappedColumns(mapping).flatMap(([name, setting]) => {
    const column = byName.get(name)
    const rule = RULES[setting] ?? IDENTIFIER
    if (!column || (!column.generated && rule.fits(column))) return []
    const found = column.generated ? `a generated column of type ${column.type}` : `type ${column.type}`
    return [
      { column: name, setting, found, accepted: column.generated ? 'a column that is not generated' : rule.accepted },
    ]
  })
}

/** The columns of a mapping that the table lacks. Pure. */
export function missingColumns(
  mapping: OutboxMapping,
  columns: readonly OutboxColumn[],
): [column: string, setting: string][] {
  const there = new Set(columns.map(({ name }) => name))
  const missing = new Map(mappedColumns(mapping).filter(([column]) => !there.has(column)))
  return [...missing]
}

/** The columns that a mapping names, each with the setting that names it. Pure. */
export function mappedColumns({ stream, columns }: OutboxMapping): [column: string, setting: string][] {
  const inTemplate = [...stream.matchAll(/\{([^{}\s]+)\}/g)].map(([, column]) => column as string)
  return [
    ...inTemplate.map((column): [string, string] => [column, 'outbox.stream']),
    ...Object.entries(columns).map(([key, column]): [string, string] => [column, `outbox.columns.${key}`]),
  ]
}

interface Rule {
  accepted: string
  fits(column: OutboxColumn): boolean
}

const isText = ({ category }: OutboxColumn): boolean => category === 'S'
const isJson = ({ base }: OutboxColumn): boolean => base === 'json' || base === 'jsonb'

/**
 * What Postgres writes as one plain word or text; category U has uuid, and types of extensions such as ltree. A bytea, an array
 * or a document would be published in Postgres' own notation.
 */
const IDENTIFIER: Rule = {
  accepted: 'text, a number, uuid, an enum, a boolean, a date, or such a type of an extension',
  fits: ({ base, category }) =>
    'SNEBDTIU'.includes(category) && !['bytea', 'json', 'jsonb', 'xml', 'tsvector'].includes(base),
}
const DOCUMENT: Rule = {
  accepted: 'json, jsonb, or text that holds JSON',
  fits: (column) => isJson(column) || isText(column),
}

const RULES: Readonly<Record<string, Rule>> = {
  'outbox.columns.data': DOCUMENT,
  'outbox.columns.headers': DOCUMENT,
  'outbox.columns.schemaVersion': {
    accepted: 'an integer, or text that holds one',
    fits: (column) => ['int2', 'int4', 'int8', 'numeric'].includes(column.base) || isText(column),
  },
  'outbox.columns.time': {
    accepted: 'timestamptz, timestamp, or text as Postgres writes one',
    fits: (column) => column.base === 'timestamptz' || column.base === 'timestamp' || isText(column),
  },
}

/** Throws an OutriderError unless the relay can publish from every column that the mapping names. */
export async function requireColumns(client: pg.ClientBase, mapping: OutboxMapping, table: TableName): Promise<void> {
  const columns = (await readOutboxColumns(client, table)) ?? []
  const missing = missingColumns(mapping, columns).map(
    ([column, setting]) => `${setting}: expected a column of ${mapping.table}, found none that is named ${column}.`,
  )
  refuse([...missing, ...describeUnfit(mapping, columns)])
}

/** The same of the columns that there are: rows that wait in WAL may have others, and each is looked at as it is read. */
export async function requireFitColumns(
  client: pg.ClientBase,
  mapping: OutboxMapping,
  table: TableName,
): Promise<void> {
  refuse(describeUnfit(mapping, (await readOutboxColumns(client, table)) ?? []))
}

const describeUnfit = (mapping: OutboxMapping, columns: readonly OutboxColumn[]): string[] =>
  unfitColumns(mapping, columns).map(
    ({ column, setting, found, accepted }) => `${setting}: expected ${accepted}, found column ${column}, ${found}.`,
  )

function refuse(problems: string[]): void {
  if (problems.length === 0) return
  throw new OutriderError(`${problems.join(' ')} Map another column, or change this one.`, {
    exitCode: ExitCode.usage,
  })
}
