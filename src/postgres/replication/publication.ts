import pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import type { OutboxMapping } from '../../config/schema.js'
import { mappedColumns } from '../outbox/columns.js'
import { parseTable, quoteTable, quoteTableName, type TableName } from '../outbox/table-name.js'

interface PublicationRow {
  inserts: boolean
  others: boolean
  via_root: boolean
  everything: boolean
  tables: PublicationEntry[]
}

interface PublicationEntry {
  oid: number
  schema: string
  name: string
  /** Has a row filter. */
  filtered: boolean
  /** Its column list. */
  columns: string[] | null
}

/** What a publication leaves out of the outbox table. */
export interface Omitted {
  publication: string
  /** `schema.table`, as it is named now. */
  table: string
  omissions: string[]
}

const SETTINGS = "publish = 'insert', publish_via_partition_root = true"

/**
 * Makes sure that `name` publishes the inserts of `table` and nothing else. Creates it where it is missing; one that
 * differs is never altered, because the relay takes every change to it for a possible hole.
 */
export async function ensurePublication(
  client: pg.ClientBase,
  name: string,
  table: TableName,
): Promise<'created' | 'present'> {
  const found = await readPublication(client, name)
  if (!found) {
    await client.query(createStatement(name, table))
    return 'created'
  }
  const { wrong, others } = differences(found, table)
  if (wrong.length > 0) {
    // Without a time in which the outbox is not published, which no version before 18 can decode past.
    const remedy =
      others.length > 0 && wrong.length === 1
        ? dropFromPublication(name, others)
        : replacePublication(name, table).replaceAll('\n', ' ')
    throw new OutriderError(
      `Expected publication ${name} to publish the inserts of ${table.schema}.${table.name} and nothing else, found that ` +
        `it ${wrong.join(' and ')}. If nothing else uses it: \`${remedy}\`, then run this command again. ` +
        'Otherwise give Outrider a name of its own in OUTRIDER_PUBLICATION.',
    )
  }
  return 'present'
}

/**
 * What the publication of a lineage leaves out of its table; undefined: nothing, or it is missing. Without a `mapping` any
 * column list counts, with one a list that lacks a column of it.
 */
export async function findOmissions(
  client: pg.ClientBase,
  { publication, outboxTable, outboxOids }: { publication: string; outboxTable: string; outboxOids: readonly number[] },
  mapping?: OutboxMapping,
): Promise<Omitted | undefined> {
  const found = await readPublication(client, publication)
  if (!found) return undefined
  // As `outrider.outbox_oid` chooses, but of the lineage's own tables where they are known.
  const own =
    entryOf(found, parseTable(outboxTable)) ??
    found.tables.find(({ oid }) => outboxOids.length === 0 || outboxOids.includes(oid))
  const omissions = omissionsOf(found, own, mapping)
  if (omissions.length === 0) return undefined
  return { publication, table: own ? `${own.schema}.${own.name}` : outboxTable, omissions }
}

/**
 * An SQL condition: has a transaction altered or dropped the publication that is not visible yet? While its commit waits for a synchronous
 * standby, rows are decoded by what it has altered already. True also for a while after one that was rolled back, as long as
 * transactions run that are older. `name`: an expression.
 */
export const isBeingAltered = (name: string): string =>
  `exists (
     select from pg_publication as p,
       lateral (
         select p.xmax union all
         select r.xmax from pg_publication_rel as r where prpubid = p.oid union all
         select n.xmax from pg_publication_namespace as n where pnpubid = p.oid
       ) as entry (deleted_by)
     where pubname = ${name} and age(deleted_by) <= age(pg_snapshot_xmin(pg_current_snapshot())::xid)
   )`

/** The statements that make it as it should be, in one transaction, so that nothing is missed in between. */
export const replacePublication = (name: string, table: TableName): string =>
  ['begin;', `drop publication ${pg.escapeIdentifier(name)};`, `${createStatement(name, table)};`, 'commit;'].join('\n')

const createStatement = (name: string, table: TableName): string =>
  `create publication ${pg.escapeIdentifier(name)} for table only ${quoteTable(table)} with (${SETTINGS})`

const entryOf = ({ tables }: PublicationRow, table: TableName) =>
  tables.find(({ schema, name }) => schema === table.schema && name === table.name)

function omissionsOf(
  { inserts }: PublicationRow,
  own: PublicationEntry | undefined,
  mapping?: OutboxMapping,
): string[] {
  const lacks = own?.columns && (mapping ? mappedColumns(mapping).some(([name]) => !own.columns?.includes(name)) : true)
  return [
    !own && 'does not list it',
    (own?.filtered || lacks) && 'leaves out rows or columns of it',
    !inserts && 'publishes no inserts',
  ].filter((omission) => typeof omission === 'string')
}

export const dropFromPublication = (name: string, tables: readonly string[]): string =>
  `alter publication ${pg.escapeIdentifier(name)} drop table ${tables.map((table) => `only ${quoteTableName(table)}`).join(', ')}`

function differences(found: PublicationRow, table: TableName): { wrong: string[]; others: string[] } {
  const own = entryOf(found, table)
  const others = found.tables.filter((each) => each !== own).map(({ schema, name }) => `${schema}.${name}`)
  const wrong = [
    found.everything && 'publishes all tables, or all of a schema',
    ...omissionsOf(found, own),
    others.length > 0 && `publishes ${others.join(', ')}`,
    found.others && 'publishes more than inserts',
    !found.via_root && 'publishes partitions under their own names',
  ].filter((difference) => typeof difference === 'string')
  return { wrong, others }
}

async function readPublication(client: pg.ClientBase, name: string): Promise<PublicationRow | undefined> {
  const { rows } = await client.query<PublicationRow>(
    `select
       pubinsert as inserts, pubupdate or pubdelete or pubtruncate as others,
       pubviaroot as via_root,
       puballtables or exists (select from pg_publication_namespace where pnpubid = p.oid) as everything,
       coalesce(
         (select json_agg(json_build_object('oid', c.oid::bigint, 'schema', nspname, 'name', relname,
             'filtered', prqual is not null, 'columns', (
               select json_agg(attname) from pg_attribute where attrelid = prrelid and attnum = any (prattrs::int2[])
             )) order by r.oid)
          from pg_publication_rel as r join pg_class as c on c.oid = prrelid join pg_namespace as n on n.oid = relnamespace
          where prpubid = p.oid),
         '[]'
       ) as tables
     from pg_publication as p where pubname = $1`,
    [name],
  )
  return rows[0]
}
