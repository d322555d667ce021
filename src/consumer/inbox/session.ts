import type { RowQuery } from './database.js'
import { classifyDatabaseError, type SessionState } from './error-class.js'

/**
 * Asks the connection of an open transaction how it stands. A transaction in which a statement has failed refuses any other
 * one (SQLSTATE 25P02), and a connection that is lost says so.
 */
export async function sessionOf(query: RowQuery): Promise<SessionState> {
  try {
    await query('select 1 as alive', [])
    return 'open'
  } catch (error) {
    return classifyDatabaseError({ cause: error, stage: 'commit', session: 'aborted' }) === 'outage'
      ? 'ended'
      : 'aborted'
  }
}

/** A `pg` client whose errors can be heard: the JavaScript one. The native one has no `connection`. */
export interface AudibleClient {
  readonly connection?: {
    on(event: 'errorMessage', listener: (error: unknown) => void): unknown
    removeListener(event: 'errorMessage', listener: (error: unknown) => void): unknown
  }
}

/**
 * The errors that Postgres raises on a client's connection: the same objects that its queries reject with. They tell an error
 * of this transaction from that of another database also where a savepoint has saved the transaction.
 */
export class RaisedErrors {
  readonly #client: AudibleClient
  readonly #errors: unknown[] = []
  readonly #note = (error: unknown) => {
    this.#errors.push(error)
  }

  constructor(client: AudibleClient) {
    this.#client = client
    client.connection?.on('errorMessage', this.#note)
  }

  includesAny(errors: readonly Error[]): boolean {
    return errors.some((error) => this.#errors.includes(error))
  }

  close(): void {
    this.#client.connection?.removeListener('errorMessage', this.#note)
  }
}
