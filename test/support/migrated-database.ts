import pg from 'pg'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { createDatabase, type Database, type PostgresServer, sharedPostgres } from '../../testkit/services/index.js'

export type Part = 'outbox' | 'inbox'

const templates = new Map<Part, Promise<string>>()

/**
 * A new database in the shared cluster with the migrations of this version, those of a workers' database alone for
 * `inbox`. It is a copy of one that was migrated once a run: to copy is faster than to migrate.
 */
export async function createMigratedDatabase(part: Part): Promise<Database> {
  const server = await sharedPostgres()
  if (process.env.OUTRIDER_TEST_POSTGRES_URL) {
    // Which keeps no template when the run is over.
    const database = await createDatabase()
    await applyTo(database, part)
    return database
  }
  const template = templates.get(part) ?? createTemplate(server, part)
  templates.set(part, template)
  return createDatabase({ template: await template })
}

async function createTemplate(server: PostgresServer, part: Part): Promise<string> {
  const name = `template_${part}`
  const client = await server.connect()
  try {
    // The workers of the run take turns; the first makes it.
    await client.query('select pg_advisory_lock(hashtext($1))', [name])
    const found = await client.query('select from pg_database where datname = $1 and not datallowconn', [name])
    if (found.rowCount === 0) {
      await applyTo(await server.createDatabase(name), part)
      // Nothing may be connected to a database that is copied.
      await client.query(`alter database ${pg.escapeIdentifier(name)} allow_connections false`)
    }
  } finally {
    await client.end()
  }
  return name
}

async function applyTo(database: Database, part: Part): Promise<void> {
  const client = await database.connect()
  try {
    await migrate(client, part === 'inbox' ? { only: 'inbox' } : {})
  } finally {
    await client.end()
  }
}
