import pg from 'pg'

/** Runs a statement without parameters; its rows. */
type Ask = (sql: string) => Promise<object[]>

export interface RenamedSchema {
  /** The name that it has now. */
  name: string
  /** Whether there is another schema `outrider` beside it. */
  isReplaced: boolean
}

/**
 * A schema with Outrider's tables under another name, while the slot is there, or the publication, which follows its table. Looks only where the lineage of the slot is not known from the schema `outrider`.
 */
export async function findRenamedSchema(
  ask: Ask,
  { slot, publication }: { slot: string; publication: string },
): Promise<RenamedSchema | undefined> {
  const rows = (await ask(
    `select n.nspname::text as name, to_regnamespace('outrider') is not null as "isReplaced"
     from pg_catalog.pg_namespace as n
     where n.nspname <> 'outrider'
       and exists (
         select from pg_catalog.pg_class as c join pg_catalog.pg_attribute as a on a.attrelid = c.oid
         where c.relnamespace = n.oid and c.relname = 'lineage' and a.attname = 'publication_state'
       )
       and exists (
         select from pg_catalog.pg_class as c join pg_catalog.pg_attribute as a on a.attrelid = c.oid
         where c.relnamespace = n.oid and c.relname = 'migration' and a.attname = 'checksum'
       )
       and (
         exists (
           select from pg_catalog.pg_replication_slots
           where slot_name = ${pg.escapeLiteral(slot)} and database = current_database()
         )
         or exists (
           select from pg_catalog.pg_publication_tables
           where pubname = ${pg.escapeLiteral(publication)} and schemaname = n.nspname
         )
       )
     order by n.oid
     limit 1`,
  )) as RenamedSchema[]
  return rows[0]
}

/** The statements that restore the name. The publication and the slot stay as they are. */
export function renameSchemaBack({ name, isReplaced }: RenamedSchema): string {
  const back = `alter schema ${pg.escapeIdentifier(name)} rename to outrider;`
  return isReplaced ? `begin;\nalter schema outrider rename to outrider_unused;\n${back}\ncommit;` : back
}

/** What was found, and what to do, after "Expected the schema outrider,". */
export function describeRenamedSchema(renamed: RenamedSchema): string {
  const { name, isReplaced } = renamed
  return (
    `found that the schema of this slot and publication is named ${name}${isReplaced ? ', and that another one is named outrider' : ''}. ` +
    `Restore the name: \`${renameSchemaBack(renamed).replaceAll('\n', ' ')}\`. Its rows are kept in WAL` +
    `${isReplaced ? '; those of outrider_unused.outbox are not: insert them again' : ''}.`
  )
}
