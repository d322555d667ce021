import { AdaptedDatabase, type Adapter } from './adapted-database.js'
import type { Database } from './database.js'
import type { DatabaseOption, PgPool } from './database-adapter.js'
import { PgDatabase } from './pg-database.js'

/** The workers' database that `db` names. Throws a TypeError for anything else than a Pool of `pg` or an adapter. */
export function databaseOf(option: DatabaseOption): Database {
  const found = option as object as Record<string, unknown> | null
  if (typeof found === 'object' && found !== null) {
    if ('totalCount' in found && typeof found.connect === 'function') return new PgDatabase(option as PgPool)
    // Databases of Kysely and TypeORM have a transaction, too, and one of Drizzle a query that is no function: none is an adapter.
    const isOther =
      ['connect', 'executeQuery', 'getRepository'].some((name) => name in found) ||
      typeof (found.query ?? databaseOf) !== 'function'
    if (typeof found.transaction === 'function' && !isOther) return new AdaptedDatabase(option as Adapter)
  }
  throw new TypeError(
    'Expected db to be a Pool of pg, or { transaction(run), query(tx, text, values) } for another library, found ' +
      `${found === null ? 'null' : typeof found === 'object' ? 'an object of another kind' : typeof found}. ` +
      'Drizzle: { transaction: (run) => db.transaction(run) }; Kysely: { transaction: (run) => db.transaction().execute(run) }; ' +
      'Knex: { transaction: (run) => knex.transaction(run) }; TypeORM: { transaction: (run) => dataSource.transaction(run) }.',
  )
}
