import { NO_TRANSACTION_TIMEOUT } from '../../postgres/client/connect.js'
import type { ReplicationQuery } from './leader-lock.js'
import { inboundTimeout, standbyStatusInterval } from './standby-status.js'

/** The replication connection, as the server sees it. */
export interface Walsender {
  readonly pid: number
  /** `wal_sender_timeout` in milliseconds; 0 for none. */
  readonly timeoutMs: number
}

/**
 * Until it streams, the connection would hold the lock however long this process hangs. So it may not be idle for longer
 * than a walsender may be silent; `keepBusy` keeps it from being idle.
 */
export async function limitIdleTime(query: ReplicationQuery): Promise<Walsender> {
  const [setting] = await query("select setting from pg_settings where name = 'wal_sender_timeout'")
  const timeoutMs = Number(setting?.setting)
  const [backend] = await query('select pg_backend_pid() as pid')
  await query(`set idle_session_timeout = ${inboundTimeout(timeoutMs)}`)
  // A large transaction is decoded in one transaction of the walsender.
  await query(NO_TRANSACTION_TIMEOUT)
  return { pid: Number(backend?.pid), timeoutMs }
}

/** Sends a statement at each interval while `work` runs: without an answer, the lock may be another relay's. */
export async function keepBusy<T>(
  query: ReplicationQuery,
  { timeoutMs }: Walsender,
  failed: (error: unknown) => void,
  work: () => Promise<T>,
): Promise<T> {
  const ask = () => query('select 1').catch(failed)
  const timer = setInterval(ask, standbyStatusInterval(timeoutMs))
  try {
    return await work()
  } finally {
    clearInterval(timer)
  }
}
