import { sqlState } from '../../postgres/client/transaction.js'
import { HandlerTimeoutError } from '../delivery/handler-timeout.js'
import { errorsOf } from '../delivery/thrown.js'
import { type Database, type QueryRow, type Statement, type Transacted, TransactionFailedError } from './database.js'
import type { PgClient, PgPool } from './database-adapter.js'
import type { SessionState, Stage } from './error-class.js'
import { listenToIdleLoss } from './idle-loss.js'
import { rowQueryOf } from './row-query.js'
import { RaisedErrors, sessionOf } from './session.js'

/** A database that is reached through a Pool of `pg`. */
export class PgDatabase implements Database {
  readonly #pool: PgPool
  /** Requests of the library itself that may wait for a connection. */
  #asking = 0

  constructor(pool: PgPool) {
    this.#pool = pool
  }

  get maxTransactions(): number {
    return this.#pool.options?.max ?? 10
  }

  async query({ text, values }: Statement): Promise<readonly QueryRow[]> {
    const { rows } = await this.#ask(() => this.#pool.query(text, values))
    return rows as QueryRow[]
  }

  waitingOthers(): number {
    return Math.max(0, this.#pool.waitingCount - this.#asking)
  }

  async #ask<T>(request: () => Promise<T>): Promise<T> {
    this.#asking += 1
    try {
      return await request()
    } finally {
      this.#asking -= 1
    }
  }

  onIdleLoss(listener: (error: Error) => void): () => void {
    return listenToIdleLoss(this.#pool, listener)
  }

  async transaction<Opened>({ first, read, work, readCommitted }: Transacted<Opened>): Promise<Opened | undefined> {
    let stage: Stage = 'opening'
    let client: PgClient | undefined
    let raised: RaisedErrors | undefined
    let broken: Error | undefined
    let timedOut: HandlerTimeoutError | undefined
    // The pool takes its own listener away while a client is out; without one, a lost connection would end the process.
    const note = (error: Error) => {
      // The first: behind what the server says pg tells that the connection has ended.
      broken ??= error
    }
    try {
      client = await this.#ask(() => this.#pool.connect())
      client.on('error', note)
      raised = new RaisedErrors(client)
      // In one message: of the statements of a short transaction, BEGIN would cost as much as any other.
      const begin = readCommitted ? 'begin isolation level read committed' : 'begin'
      const [, answer] = (await client.query(`${begin}; ${inlined(client, first)}`)) as unknown as {
        rows: QueryRow[]
      }[]
      const opened = read((answer as { rows: QueryRow[] }).rows)
      if (opened === undefined) {
        await client.query('rollback')
        return undefined
      }
      stage = 'handler'
      const tx = client
      // Made when it is asked for: most handlers publish nothing.
      await work(tx, opened, (text, values) => rowQueryOf(tx)(text, values))
      // Before the commit is sent, so that what the server says of a handler which took too long is an attempt of it.
      if (broken) throw broken
      if (client.getTransactionStatus?.() === 'I') throw new Error(ENDED)
      stage = 'commit'
      const { command } = await client.query('commit')
      // What Postgres answers to a COMMIT of a transaction that a failed statement has aborted: no error, and nothing done.
      if (command === 'ROLLBACK') throw new Error(ABORTED)
      return opened
    } catch (error) {
      let session: SessionState = 'aborted'
      const [thrown] = errorsOf(error)
      // A statement of it may still run, which a ROLLBACK would wait for.
      if (thrown instanceof HandlerTimeoutError) timedOut = thrown
      else if (client && !broken) {
        if (stage === 'handler' && !raised?.includesAny(errorsOf(error))) session = await sessionOf(rowQueryOf(client))
        await client.query('rollback').catch(note)
      }
      // What the server said when it ended the session tells more than that the next statement found no connection.
      if (broken) throw new TransactionFailedError(causeOf(broken) ?? error, stage, 'ended')
      throw new TransactionFailedError(error, stage, timedOut ? 'open' : session)
    } finally {
      raised?.close()
      client?.removeListener('error', note)
      client?.release(broken ?? timedOut)
      if (timedOut) await this.#cancel(client)
    }
  }

  /** Ends the statement of a session whose connection was closed: the server would find that out only after it. */
  async #cancel(client: PgClient | undefined): Promise<void> {
    const text =
      'select pg_terminate_backend(pid) as ended from pg_stat_activity where pid = $1::int and usename = current_user'
    await this.query({ text, values: [String(client?.processID ?? 0)] }).catch(() => {})
  }
}

const causeOf = (broken: Error): Error | undefined => (sqlState(broken) === undefined ? undefined : broken)

/** By text: what is between its parameters, and their numbers, in turn. There are few texts, each of every event. */
const parts = new Map<string, readonly string[]>()

function partsOf(text: string): readonly string[] {
  const known = parts.get(text)
  if (known) return known
  const found = text.split(/\$(\d+)/)
  parts.set(text, found)
  return found
}

/** As one text, because a message of several statements takes no parameters. Every `$n` in it is one. */
function inlined(client: PgClient, { text, values }: Statement): string {
  let inlined = ''
  let isParameter = false
  for (const part of partsOf(text)) {
    inlined += isParameter ? client.escapeLiteral(values[Number(part) - 1] as string) : part
    isParameter = !isParameter
  }
  return inlined
}

const ENDED =
  'Expected the transaction to be open when the handler returns, found that it was ended. The library commits it together ' +
  'with the record that the event is processed: take COMMIT and ROLLBACK out of the handler, and throw to roll back.'
const ABORTED =
  'Expected the transaction to commit, found that a statement in it had failed: Postgres rolled it back. Let the error of ' +
  'a statement be thrown, or put what may fail behind a savepoint.'
