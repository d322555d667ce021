import pg from 'pg'

/** Runs a statement without parameters; its rows. */
type Ask = (sql: string) => Promise<object[]>

export interface RenamedSchema {
  /** The name that it has now. */
  name: string
  /** Whether there is another schema with the name `outrider`. */
  isReplaced: boolean
  /** Whether its slot is there, which keeps its rows in WAL. */
  hasSlot: boolean
}

interface Candidate extends RenamedSchema {
  /** The publication, which follows its table, publishes a table of this schema. */
  isPublished: boolean
  mayRead: boolean
}

/**
 * The schema of this slot and publication, where it has another name. A schema with Outrider's tables may also be an archive: so
 * the publication must publish a table of it, or the slot be in its lineage. To be asked where the schema `outrider` does not
 * know the slot.
 */
export async function findRenamedSchema(
  ask: Ask,
  { slot, publication }: { slot: string; publication: string },
): Promise<RenamedSchema | undefined> {
  const candidates = (await ask(
    `select n.nspname::text as name, to_regnamespace('outrider') is not null as "isReplaced",
       exists (
         select from pg_catalog.pg_replication_slots
         where slot_name = ${pg.escapeLiteral(slot)} and database = current_database()
       ) as "hasSlot",
       exists (
         select from pg_catalog.pg_publication_tables
         where pubname = ${pg.escapeLiteral(publication)} and schemaname = n.nspname
       ) as "isPublished",
       has_schema_privilege(n.oid, 'usage') and has_table_privilege(lineage.oid, 'select') as "mayRead"
     from pg_catalog.pg_namespace as n join pg_catalog.pg_class as lineage on lineage.relnamespace = n.oid
     where n.nspname <> 'outrider' and lineage.relname = 'lineage'
       and exists (
         select from pg_catalog.pg_attribute as a where a.attrelid = lineage.oid and a.attname = 'publication_state'
       )
       and exists (
         select from pg_catalog.pg_class as c join pg_catalog.pg_attribute as a on a.attrelid = c.oid
         where c.relnamespace = n.oid and c.relname = 'migration' and a.attname = 'checksum'
       )
     order by "isPublished" desc, n.oid`,
  )) as Candidate[]
  for (const { isPublished, mayRead, ...found } of candidates) {
    if (isPublished) return found
    if (!found.hasSlot || !mayRead) continue
    const lineage = `${pg.escapeIdentifier(found.name)}.lineage`
    const known = await ask(`select 1 from ${lineage} where slot = ${pg.escapeLiteral(slot)} and retired_at is null`)
    if (known.length > 0) return found
  }
  return undefined
}

/** The statements that restore the name. The publication and the slot stay as they are. */
export function renameSchemaBack({ name, isReplaced }: RenamedSchema): string {
  const back = `alter schema ${pg.escapeIdentifier(name)} rename to outrider;`
  return isReplaced ? `begin;\nalter schema outrider rename to outrider_unused;\n${back}\ncommit;` : back
}

/** What was found, and what to do, after "Expected the schema outrider,". */
export function describeRenamedSchema(renamed: RenamedSchema): string {
  const { name, isReplaced, hasSlot } = renamed
  const kept = [
    ...(hasSlot ? ['Its rows are kept in WAL.'] : []),
    ...(isReplaced ? ['Rows of outrider_unused.outbox are not published: insert them again.'] : []),
  ]
  return [
    `found that the schema of this slot and publication is named ${name}${isReplaced ? ', and that another one is named outrider' : ''}.`,
    `Restore the name: \`${renameSchemaBack(renamed).replaceAll('\n', ' ')}\`.`,
    ...kept,
  ].join(' ')
}
