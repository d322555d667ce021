/**
 * What an error of Postgres means for the relay. One table by SQLSTATE, pure; every row has a test.
 *
 * retry  the session ends and the next one begins after a pause; `reason` is shown meanwhile
 * halt   somebody has to act: the relay looks again from time to time, and goes on by itself once it is mended
 *
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
export type PostgresFate = 'retry' | 'halt'

export interface PostgresVerdict {
  fate: PostgresFate
  /** Short and stable: a label of metrics, and what /readyz says. */
  reason: string
}

const BY_STATE: Record<string, PostgresVerdict> = {
  '55006': { fate: 'retry', reason: 'slot_active' },
  '57P01': { fate: 'retry', reason: 'postgres_shutdown' },
  '57P02': { fate: 'retry', reason: 'postgres_shutdown' },
  '57P03': { fate: 'retry', reason: 'postgres_starting' },
  '57014': { fate: 'retry', reason: 'postgres_timeout' },
  '25P03': { fate: 'retry', reason: 'postgres_timeout' },
  '25P04': { fate: 'retry', reason: 'postgres_timeout' },
  '55P03': { fate: 'retry', reason: 'postgres_lock_timeout' },
  '25006': { fate: 'retry', reason: 'postgres_read_only' },
  '42501': { fate: 'halt', reason: 'postgres_privilege' },
  '42704': { fate: 'halt', reason: 'postgres_object_missing' },
  '55000': { fate: 'halt', reason: 'postgres_not_ready' },
  '58P01': { fate: 'halt', reason: 'postgres_wal_removed' },
  '3D000': { fate: 'halt', reason: 'postgres_database_missing' },
  '3F000': { fate: 'halt', reason: 'setup_missing' },
  '42P01': { fate: 'halt', reason: 'setup_missing' },
  '42703': { fate: 'halt', reason: 'setup_outdated' },
  '42883': { fate: 'halt', reason: 'setup_outdated' },
}

const BY_CLASS: Record<string, PostgresVerdict> = {
  '08': { fate: 'retry', reason: 'postgres_unreachable' },
  '28': { fate: 'retry', reason: 'postgres_credentials' },
  '40': { fate: 'retry', reason: 'postgres_conflict' },
  '53': { fate: 'retry', reason: 'postgres_resources' },
  '57': { fate: 'retry', reason: 'postgres_shutdown' },
  '58': { fate: 'retry', reason: 'postgres_io' },
  XX: { fate: 'halt', reason: 'postgres_internal' },
}

// Of the system, of sockets and streams, of TLS. Node's other codes (ERR_INVALID_ARG_TYPE …) tell of a mistake here.
const CONNECTION =
  /^(E(?!RR_)[A-Z_]+|ERR_(TLS|SSL|OSSL|SOCKET|STREAM)_.*|.*CERT.*|UNABLE_TO_.*|HOSTNAME_MISMATCH|INVALID_CA)$/

/** `code` is the SQLSTATE, or the code of a socket or TLS error; none when the connection just ended. */
export function classifyPostgres(code: string | undefined): PostgresVerdict {
  if (code === undefined || CONNECTION.test(code)) return { fate: 'retry', reason: 'postgres_unreachable' }
  const state = Object.hasOwn(BY_STATE, code) ? BY_STATE[code] : undefined
  const kind = code.length === 5 ? BY_CLASS[code.slice(0, 2)] : undefined
  return state ?? kind ?? { fate: 'halt', reason: 'postgres_unknown' }
}
