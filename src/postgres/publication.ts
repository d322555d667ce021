import type pg from 'pg'
import { Failure } from '../failure.js'
import { quoteTable, type TableName } from './table.js'

interface PublicationRow {
  only_inserts: boolean
  via_root: boolean
  everything: boolean
  tables: { schema: string; name: string; narrowed: boolean }[]
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
    await client.query(createStatement(client, name, table))
    return 'created'
  }
  const wrong = differences(found, table)
  if (wrong.length > 0) {
    throw new Failure(
      `Expected publication ${name} to publish the inserts of ${table.schema}.${table.name} and nothing else, found that ` +
        `it ${wrong.join(' and ')}. If nobody else uses it: \`drop publication ${client.escapeIdentifier(name)}\` and run ` +
        '`outrider setup` again. Otherwise give Outrider a name of its own in OUTRIDER_PUBLICATION.',
    )
  }
  return 'present'
}

/** The statement that makes it, for people and for `ensurePublication`. */
function createStatement(client: pg.ClientBase, name: string, table: TableName): string {
  return `create publication ${client.escapeIdentifier(name)} for table ${quoteTable(table)} with (${SETTINGS})`
}

function differences(found: PublicationRow, table: TableName): string[] {
  const own = found.tables.find(({ schema, name }) => schema === table.schema && name === table.name)
  const others = found.tables.filter((each) => each !== own).map(({ schema, name }) => `${schema}.${name}`)
  return [
    found.everything && 'publishes all tables, or all of a schema',
    !found.everything && !own && 'does not publish it',
    own?.narrowed && 'leaves out rows or columns of it',
    others.length > 0 && `publishes ${others.join(', ')}`,
    !found.only_inserts && 'publishes more than inserts',
    !found.via_root && 'publishes partitions under their own names',
  ].filter((difference) => typeof difference === 'string')
}

async function readPublication(client: pg.ClientBase, name: string): Promise<PublicationRow | undefined> {
  const { rows } = await client.query<PublicationRow>(
    `select
       pubinsert and not pubupdate and not pubdelete and not pubtruncate as only_inserts,
       pubviaroot as via_root,
       puballtables or exists (select from pg_publication_namespace where pnpubid = p.oid) as everything,
       coalesce(
         (select json_agg(json_build_object('schema', nspname, 'name', relname,
             'narrowed', prqual is not null or prattrs is not null))
          from pg_publication_rel join pg_class as c on c.oid = prrelid join pg_namespace as n on n.oid = relnamespace
          where prpubid = p.oid),
         '[]'
       ) as tables
     from pg_publication as p where pubname = $1`,
    [name],
  )
  return rows[0]
}
