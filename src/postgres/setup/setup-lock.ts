import type pg from 'pg'
import { OutriderError } from '../../base/failure.js'
import { sqlState } from '../client/transaction.js'

const WAIT = '30s'

/** Any constant does; this one reads `outr` in ASCII, and 2. `migrate` has the 1. */
const LOCK = [0x6f757472, 2]

/** Runs `work` while no other setup, adopt or teardown of this database runs. */
export async function withSetupLock<T>(client: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await client.query("select set_config('lock_timeout', $1, false)", [WAIT])
  try {
    await client.query('select pg_advisory_lock($1, $2)', LOCK)
  } catch (error) {
    if (sqlState(error) !== '55P03') throw error
    throw new OutriderError(
      `Another setup, adopt or teardown of this database has been running for more than ${WAIT}. Let it end, then try again.`,
      { cause: error },
    )
  } finally {
    await client.query('reset lock_timeout').catch(() => undefined)
  }
  try {
    return await work()
  } finally {
    await client.query('select pg_advisory_unlock($1, $2)', LOCK).catch(() => undefined)
  }
}
