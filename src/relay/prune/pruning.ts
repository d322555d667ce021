import type pg from 'pg'
import { every } from '../../base/interval.js'
import { type Config, OWN_OUTBOX } from '../../config/schema.js'
import { endPostgres } from '../../postgres/client/connect.js'
import { sqlState } from '../../postgres/client/transaction.js'
import { pruneCheckpoints } from '../../postgres/state/checkpoints.js'
import { pruneGapStreams } from '../../postgres/state/gaps.js'
import { pruneIncidents } from '../../postgres/state/pruning.js'
import { lockLost } from '../../postgres/state/sessions.js'
import type { Logger } from '../../telemetry/log.js'
import { connectRepair, type StateStore } from '../confirm/state-store.js'

const ROUND_EVERY_MS = 3_600_000
/** Statements of one kind in a round: 1,000 incidents, or 10,000 streams of gaps, in each. */
const MAX_STATEMENTS = 100

const INSUFFICIENT_PRIVILEGE = '42501'

export interface PruningOptions {
  config: Config
  log: Logger
  stateStore: StateStore
}

/** Deletes what is not needed any longer of what the relay keeps in Postgres: at the start of a session, and once an hour. */
class Pruning {
  readonly #options: PruningOptions
  readonly #signal: AbortSignal
  #isRunning = false
  #said = ''

  constructor(options: PruningOptions, signal: AbortSignal) {
    this.#options = options
    this.#signal = signal
  }

  async run(): Promise<void> {
    if (this.#isRunning || this.#signal.aborted) return
    this.#isRunning = true
    try {
      await this.#round()
      this.#said = ''
    } catch (error) {
      this.#failed(error as Error)
    } finally {
      this.#isRunning = false
    }
  }

  async #round(): Promise<void> {
    const { config, stateStore } = this.#options
    const client = await connectRepair(config.postgres, `outrider ${config.slot} pruning`)
    const breakOff = () => client.connection.stream.destroy()
    this.#signal.addEventListener('abort', breakOff, { once: true })
    try {
      // A connection that was made by name may lead to another server.
      if (!(await stateStore.holdsLock(client))) throw lockLost()
      await this.#prune(client)
    } finally {
      this.#signal.removeEventListener('abort', breakOff)
      await endPostgres(client)
    }
  }

  async #prune(client: pg.Client): Promise<void> {
    const { config, log, stateStore } = this.#options
    const { lineage } = stateStore.lineage
    // Those of Outrider's own table go with its rows, by Retention.
    if (config.outbox.table !== OWN_OUTBOX.table) await pruneCheckpoints(client, lineage, undefined)
    const gapStreams = await untilNone(() => pruneGapStreams(client))
    const incidents = await untilNone(() => pruneIncidents(client, lineage))
    if (incidents > 0) log.info({ incidents, gapStreams }, 'closed incidents deleted')
  }

  /** Events flow without it. Said once, as long as it stays the same. */
  #failed(error: Error): void {
    if (this.#signal.aborted || this.#said === error.message) return
    this.#said = error.message
    const isPrivilege = sqlState(error) === INSUFFICIENT_PRIVILEGE
    this.#options.log.warn({ err: error }, isPrivilege ? NOT_PERMITTED : 'pruning failed, retrying')
  }
}

const NOT_PERMITTED =
  'closed incidents stay: the role of the relay may not delete them; `outrider check` has the statement'

/** Until a statement deletes nothing. Resolves with how many rows were deleted. */
async function untilNone(prune: () => Promise<number>): Promise<number> {
  let all = 0
  for (let statements = 0; statements < MAX_STATEMENTS; statements++) {
    const deleted = await prune()
    if (deleted === 0) break
    all += deleted
  }
  return all
}

export function startPruning(options: PruningOptions, signal: AbortSignal): void {
  const pruning = new Pruning(options, signal)
  every(ROUND_EVERY_MS, () => void pruning.run(), signal)
  void pruning.run()
}
