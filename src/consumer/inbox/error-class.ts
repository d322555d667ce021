import { sqlState } from '../../postgres/client/transaction.js'
import { errorsOf } from '../delivery/thrown.js'

/**
 * What an error says of the database rather than of the event. Such errors are no attempts: the event did nothing wrong.
 *
 * conflict  this transaction met another one: again, after a moment
 * outage    the database cannot be used, or has ended the session
 * fenced    another worker holds the stream now
 */
export type DatabaseErrorClass = 'conflict' | 'outage' | 'fenced'

/** Where an error came from: what the library itself asked of the database, the handler, or the commit. */
export type Stage = 'opening' | 'handler' | 'commit'

/**
 * How the connection of a transaction stands after its handler has failed, by the connection's own word.
 *
 * open     its statements run: the error came from elsewhere, such as another database or an API
 * aborted  a statement in it failed
 * ended    it is lost
 */
export type SessionState = 'open' | 'aborted' | 'ended'

interface FailedStage {
  cause?: unknown
  stage: Stage
  /** Decides at the stage `handler` alone: at the others the error is that of a statement of the library itself. */
  session: SessionState
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const CONFLICTS = new Set(['40001', '40P01', '55P03', '40003'])
// 53300 too many connections, 57P01 to 57P03 shutting down or starting, 25006 a primary that is none any more.
const OUTAGES = /^(08|53|57P|58|25006$)/
/** Sessions that the server ended because the handler took too long: idle in its transaction, or altogether. */
const TOO_LONG = /^25P0[34]$/
const FENCED = 'OR001'

// What pg and its pool say of a connection, without any code; Knex puts the statement before it.
const CONNECTION =
  /(^| - )(Connection terminated|Client has encountered a connection error|Client was closed|timeout exceeded when trying to connect|timeout expired|Cannot use a pool after calling end)/
// The second kind is of postgres.js.
const SOCKET = /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|CONNECTION_|CONNECT_TIMEOUT)/

/**
 * The fault behind an error, or undefined where the event itself failed. Pure.
 *
 * What a handler throws is a fault only where the connection of its transaction says so (`session`): another database, a
 * second pool or an API may throw the same codes, and would never count as an attempt. A socket error counts where the library
 * itself spoke to the database, or where the connection is lost.
 */
export function classifyDatabaseError({ cause, stage, session }: FailedStage): DatabaseErrorClass | undefined {
  if (stage === 'handler' && session === 'open') return undefined
  for (const error of errorsOf(cause)) {
    const code = sqlState(error) ?? ''
    // A commit follows the handler at once, and may be the first to hear of it.
    if (TOO_LONG.test(code)) return stage === 'opening' ? 'outage' : undefined
    if (code === FENCED) return 'fenced'
    if (CONFLICTS.has(code)) return 'conflict'
    if ((code.length === 5 && OUTAGES.test(code)) || CONNECTION.test(error.message)) return 'outage'
    if (stage !== 'handler' && SOCKET.test(code)) return 'outage'
  }
  if (stage === 'handler') return session === 'ended' ? 'outage' : undefined
  // Whatever else kept the library from opening the transaction (a missing table, a missing privilege, a wrong password)
  // is no fault of the event. A commit, on the other hand, fails by a deferred constraint.
  return stage === 'opening' ? 'outage' : undefined
}
