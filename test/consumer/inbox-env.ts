import type pg from 'pg'
import { migrate } from '../../src/postgres/migrate.js'
import { createDatabase, type Database } from '../../testkit/services/index.js'

/** A database with an inbox, its owner, and a role with what a worker may do. */
export interface InboxEnv {
  database: Database
  owner: pg.Client
  /** The URL as a worker. */
  workerUrl: string
  /** A connection as a worker, which the caller ends. */
  worker(): Promise<pg.Client>
  close(): Promise<void>
}

export async function createInboxEnv(): Promise<InboxEnv> {
  const database = await createDatabase()
  const owner = await database.connect()
  await migrate(owner, { only: 'inbox' })
  const worker = { user: `${database.name}_worker`, password: 'secret' }
  await owner.query(`create role ${worker.user} login password '${worker.password}' in role outrider_consumer`)
  return {
    ...{ database, owner, workerUrl: database.urlAs(worker) },
    worker: () => database.connect(worker),
    async close() {
      await owner.end()
      await database.drop()
      await database.server.query(`drop role ${worker.user}`)
    },
  }
}
