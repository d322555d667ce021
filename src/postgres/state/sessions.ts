import { hostname } from 'node:os'
import type pg from 'pg'
import { inTransaction } from '../client/transaction.js'

/**
 * Does the walsender with this process id hold the lock of its slot? As a condition of the statement that it fences: a relay that was
 * frozen continues where it was, and another session may have led since. `pid`: an expression.
 */
export const holdsLock = (pid: string): string =>
  `exists (select from pg_locks where locktype = 'advisory' and granted and pid = ${pid})`

/** What a session finds that was frozen, or that was led to another server. */
export const lockLost = (): Error =>
  new Error('The lock of the slot is not held any longer, or the connection leads to another server.')

export interface SessionRow {
  session: string
  lineage: string
  version: string
  timeline: number
}

/** For a transaction: it commits with the `synchronous_commit` of the server, with `local` where that is `off`. */
export const SERVER_COMMIT = `select set_config(name, case reset_val when 'off' then 'local' else reset_val end, true)
  from pg_settings where name = 'synchronous_commit'`

/**
 * Records a session with the `synchronous_commit` of the server, so that a standby that is promoted knows whose the heads
 * are; where that is `off`, with `local`: a crash of this server must not lose the row either. Nothing else bounds that wait: `statement_timeout` does not apply to it. So `cancel` is called with the process id
 * after `patienceMs`, and again each time that it takes so long. A commit that is cancelled while it waits is done, here.
 * Resolves with whether it was cancelled.
 *
 * https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION
 */
export async function recordSession(
  client: pg.ClientBase,
  row: SessionRow,
  cancel: (processId: number) => Promise<unknown>,
  patienceMs = 5_000,
): Promise<boolean> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
  const pid = (rows[0] as { pid: number }).pid
  let cancelled: Promise<unknown> | undefined
  const timer = setInterval(() => {
    cancelled = cancel(pid)
    // It is awaited below.
    cancelled.catch(() => {})
  }, patienceMs)
  try {
    await inTransaction(client, async () => {
      await client.query(SERVER_COMMIT)
      await client.query(
        `with recorded as (
           insert into outrider.session (session, lineage, hostname, pid, version, timeline) values ($1, $2, $3, $4, $5, $6)
         )
         update outrider.lineage set timeline = $6 where lineage = $2 and timeline < $6`,
        [row.session, row.lineage, hostname(), process.pid, row.version, row.timeline],
      )
    })
  } finally {
    clearInterval(timer)
  }
  await cancelled
  return cancelled !== undefined
}

/** Ends the wait of a commit for a synchronous standby, and nothing else that the process may be doing. One simple statement. */
export const cancelStandbyWait = (processId: number): string =>
  `select pg_cancel_backend(pid) from pg_stat_activity where pid = ${processId} and wait_event = 'SyncRep'`

/** The number of a session; undefined where this database did not issue it for this lineage. */
export async function readSessionNumber(
  client: pg.ClientBase,
  lineage: string,
  session: string,
): Promise<number | undefined> {
  const { rows } = await client.query<{ number: number }>(
    'select number::float8 as number from outrider.session where session::text = $1 and lineage = $2',
    [session, lineage],
  )
  return rows[0]?.number
}
