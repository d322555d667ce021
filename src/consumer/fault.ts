import { sqlState } from '../postgres/transaction.js'

/**
 * What an error says of the database rather than of the event. Such errors are no attempts: the event did nothing wrong.
 *
 * conflict  this transaction met another one: again, after a moment
 * outage    nothing can be done just now: no event is begun until the database is back
 * fenced    another worker holds the stream by now
 */
export type Fault = 'conflict' | 'outage' | 'fenced'

/** Where an error came from: what the library itself asked of the database, the handler, or the commit. */
export type Stage = 'opening' | 'handler' | 'commit'

interface Failure {
  cause?: unknown
  stage: Stage
  /** The connection of the transaction is gone. */
  broken: boolean
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const CONFLICTS = new Set(['40001', '40P01', '55P03', '40003'])
// 53300 too many connections, 57P01 to 57P03 shutting down or starting, 25006 a primary that is none any more.
const OUTAGES = /^(08|53|57P|58|25006$)/
/** Sessions that the server ended because the handler took too long: idle in its transaction, or altogether. */
const TOO_LONG = /^25P0[34]$/
const FENCED = 'OR001'

// What pg and its pool say of a connection, without any code.
const CONNECTION =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|timeout exceeded when trying to connect|timeout expired|Cannot use a pool after calling end)/
const SOCKET = /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)/

/**
 * The fault behind an error, or undefined where the event itself failed. Pure.
 *
 * A socket error counts where the library itself spoke to the database, and where `broken` says that the transaction's
 * connection is gone; else a handler's own call of another service, refused, would never count as an attempt.
 */
export function faultOf({ cause, stage, broken }: Failure): Fault | undefined {
  for (let at = cause, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const code = sqlState(at) ?? ''
    if (TOO_LONG.test(code)) return stage === 'handler' ? undefined : 'outage'
    if (code === FENCED) return 'fenced'
    if (CONFLICTS.has(code)) return 'conflict'
    if ((code.length === 5 && OUTAGES.test(code)) || CONNECTION.test(at.message)) return 'outage'
    if (stage !== 'handler' && SOCKET.test(code)) return 'outage'
  }
  if (broken) return 'outage'
  // Whatever else kept the library from opening the transaction (a missing table, a missing privilege, a wrong password)
  // is no fault of the event. A commit, on the other hand, fails by a deferred constraint.
  return stage === 'opening' ? 'outage' : undefined
}
