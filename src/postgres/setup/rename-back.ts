import pg from 'pg'
import { parseTable, quoteTableName } from '../outbox/table-name.js'

export interface Renamed {
  /** `schema.table`: the name that was set up. */
  expected: string
  /** `schema.table`: the name that the published table has now. */
  published: string
  /** What has the expected name now; undefined: nothing. */
  namesake: 'table' | 'view' | undefined
}

/**
 * The statements that give the published table its name back, as one transaction, so that no row is inserted in between.
 * What has the name meanwhile is kept under another: `alter table` renames views, too.
 */
export function renameBack({ expected, published, namesake }: Renamed): string {
  const wanted = parseTable(expected)
  const now = parseTable(published)
  const statements = [
    ...(namesake
      ? [
          `alter table ${quoteTableName(expected)} rename to ${pg.escapeIdentifier(`${wanted.name}_${SUFFIX[namesake]}`)};`,
        ]
      : []),
    ...(now.name === wanted.name
      ? []
      : [`alter table ${quoteTableName(published)} rename to ${pg.escapeIdentifier(wanted.name)};`]),
    ...(now.schema === wanted.schema
      ? []
      : [
          `alter table ${quoteTableName(`${now.schema}.${wanted.name}`)} set schema ${pg.escapeIdentifier(wanted.schema)};`,
        ]),
  ]
  return (statements.length > 1 ? ['begin;', ...statements, 'commit;'] : statements).join('\n')
}

const SUFFIX = { table: 'unseen', view: 'view' }
