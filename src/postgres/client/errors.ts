/**
 * What an error of Postgres means for the relay. One table by SQLSTATE, pure; every row has a test.
 *
 * retry  the session ends and the next one begins after a pause; `reason` is shown meanwhile
 * halt   an operator has to act: the relay looks again from time to time, and continues by itself once it is fixed
 *
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
export type PostgresErrorPolicy = 'retry' | 'halt'

export interface PostgresErrorClass {
  policy: PostgresErrorPolicy
  /** Short and stable: a label of metrics, and what /readyz says. */
  reason: string
}

const BY_STATE: Record<string, PostgresErrorClass> = {
  '55006': { policy: 'retry', reason: 'slot_active' },
  '57P01': { policy: 'retry', reason: 'postgres_shutdown' },
  '57P02': { policy: 'retry', reason: 'postgres_shutdown' },
  '57P03': { policy: 'retry', reason: 'postgres_starting' },
  '57014': { policy: 'retry', reason: 'postgres_timeout' },
  '25P03': { policy: 'retry', reason: 'postgres_timeout' },
  '25P04': { policy: 'retry', reason: 'postgres_timeout' },
  '55P03': { policy: 'retry', reason: 'postgres_lock_timeout' },
  '25006': { policy: 'retry', reason: 'postgres_read_only' },
  '42501': { policy: 'halt', reason: 'postgres_privilege' },
  '42704': { policy: 'halt', reason: 'postgres_object_missing' },
  '55000': { policy: 'halt', reason: 'postgres_not_ready' },
  '58P01': { policy: 'halt', reason: 'postgres_wal_removed' },
  '3D000': { policy: 'halt', reason: 'postgres_database_missing' },
  '3F000': { policy: 'halt', reason: 'setup_missing' },
  '42P01': { policy: 'halt', reason: 'setup_missing' },
  '42703': { policy: 'halt', reason: 'setup_outdated' },
  '42883': { policy: 'halt', reason: 'setup_outdated' },
}

const BY_CLASS: Record<string, PostgresErrorClass> = {
  '08': { policy: 'retry', reason: 'postgres_unreachable' },
  '28': { policy: 'retry', reason: 'postgres_credentials' },
  '40': { policy: 'retry', reason: 'postgres_conflict' },
  '53': { policy: 'retry', reason: 'postgres_resources' },
  '57': { policy: 'retry', reason: 'postgres_shutdown' },
  '58': { policy: 'retry', reason: 'postgres_io' },
  XX: { policy: 'halt', reason: 'postgres_internal' },
}

// Of the system, of sockets and streams, of TLS. Node's other codes (ERR_INVALID_ARG_TYPE …) tell of a mistake here.
const CONNECTION =
  /^(E(?!RR_)[A-Z_]+|ERR_(TLS|SSL|OSSL|SOCKET|STREAM)_.*|.*CERT.*|UNABLE_TO_.*|HOSTNAME_MISMATCH|INVALID_CA)$/

/** `code` is the SQLSTATE, or the code of a socket or TLS error; none when the connection just ended. */
export function classifyPostgres(code: string | undefined): PostgresErrorClass {
  if (code === undefined || CONNECTION.test(code)) return { policy: 'retry', reason: 'postgres_unreachable' }
  const state = Object.hasOwn(BY_STATE, code) ? BY_STATE[code] : undefined
  const kind = code.length === 5 ? BY_CLASS[code.slice(0, 2)] : undefined
  return state ?? kind ?? { policy: 'halt', reason: 'postgres_unknown' }
}
