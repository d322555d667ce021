import { pause } from '../../base/backoff.js'

/** Rows by column name; booleans are booleans. */
export type ReplicationQuery = (sql: string) => Promise<Record<string, unknown>[]>

/** How often a standby asks, in milliseconds. */
const ASK_EVERY = 200

/**
 * Waits for the advisory lock of a slot, on the very connection that will stream. Asking again and again holds no
 * snapshot, as a blocking call would. Returns without the lock when the signal says so.
 */
export async function waitForLock(
  query: ReplicationQuery,
  slot: string,
  signal: AbortSignal,
  waiting: () => void,
): Promise<void> {
  // A slot's name holds nothing but letters, digits and underscores.
  const sql = `select pg_try_advisory_lock(hashtextextended('outrider ${slot}', 0)) as locked`
  for (let asked = 0; !signal.aborted; asked++) {
    if ((await query(sql))[0]?.locked) return
    if (asked === 0) waiting()
    await pause(ASK_EVERY, signal)
  }
}
