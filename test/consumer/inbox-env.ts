import type pg from 'pg'
import type { Database } from '../../testkit/services/index.js'
import { createMigratedDatabase } from '../support/migrated-database.js'

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
  const database = await createMigratedDatabase('inbox')
  const owner = await database.connect()
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
