import { type Database, type QueryRow, type Statement, type Transacted, TransactionFailedError } from './database.js'
import type { DatabaseAdapter } from './database-adapter.js'
import type { Stage } from './error-class.js'
import { rowQueryOf } from './row-query.js'
import { sessionOf } from './session.js'

/** An adapter as it is run: what it passes on is whatever it is given. */
export type Adapter = Omit<DatabaseAdapter<unknown>, 'transaction'> & {
  transaction<Result>(run: (tx: unknown) => Promise<Result>): Promise<Result>
}

/** A database that is reached through any library. */
export class AdaptedDatabase implements Database {
  readonly #adapter: Adapter

  constructor(adapter: Adapter) {
    this.#adapter = adapter
  }

  get maxTransactions(): number | undefined {
    return this.#adapter.maxTransactions
  }

  async query({ text, values }: Statement): Promise<readonly QueryRow[]> {
    return this.#run((tx) => rowQueryOf(tx, this.#adapter)(text, values))
  }

  waitingOthers(): number {
    return 0
  }

  /** What a library does with its connections is its own. */
  onIdleLoss(): () => void {
    return () => {}
  }

  async transaction<Opened>({ first, read, work }: Transacted<Opened>): Promise<Opened | undefined> {
    let stage: Stage = 'opening'
    let failed: TransactionFailedError | undefined
    try {
      return await this.#run(async (tx) => {
        // An adapter may run the function again by itself.
        stage = 'opening'
        failed = undefined
        const query = rowQueryOf(tx, this.#adapter)
        const opened = read(await query(first.text, first.values))
        if (opened === undefined) return undefined
        stage = 'handler'
        try {
          await work(tx, opened, query)
          // A statement that failed, and whose error the handler has swallowed, has aborted the transaction; some libraries
          // then commit without an error, and nothing is done. Any statement tells.
          await query('select 1 as alive', [])
        } catch (error) {
          failed = new TransactionFailedError(error, 'handler', await sessionOf(query))
          // As it is: the adapter may look at it.
          throw error
        }
        stage = 'commit'
        return opened
      })
    } catch (error) {
      // A rollback that fails, too, tells less.
      throw failed ?? new TransactionFailedError(error, stage, 'aborted')
    }
  }

  /** An adapter that passes on something else has waited neither for the function nor for its commit. */
  async #run<Result>(work: (tx: unknown) => Promise<Result>): Promise<Result> {
    let outcome: { result: Result } | undefined
    const passed = await this.#adapter.transaction(async (tx) => {
      outcome = { result: await work(tx) }
      return outcome
    })
    if (passed === undefined || passed !== outcome) throw new TypeError(NOT_PASSED_ON)
    return passed.result
  }
}

const NOT_PASSED_ON =
  'Expected transaction(run) to resolve to what run resolves to, once that is committed, found something else. ' +
  'See DatabaseAdapter.'
