import { setTimeout as wait } from 'node:timers/promises'
import type pg from 'pg'
import { inTransaction, sqlState } from '../client/transaction.js'
import { BUCKET_DEFAULT, hasBucketDefault } from '../outbox/buckets.js'
import { lockHolders } from '../outbox/lock-holders.js'

/** Inserts queue behind the lock, while it waits for those that are open. */
const LOCK_TIMEOUT_MS = 20
const PAUSE_MS = 400
const TRIES = 25

/**
 * Sends inserts to the 24 buckets of migration 007, once all of them are there. Waits for no open transaction for more than a moment at a
 * time. Resolves with a finding where the table was in use all the while: inserts then go to the first eight buckets, and retention
 * waits.
 */
export async function setBucketDefault(client: pg.ClientBase): Promise<string | undefined> {
  for (let tries = 1; (await hasBucketDefault(client)) === false; tries++) {
    try {
      await inTransaction(client, async () => {
        // The lock is held until the commit returns: it must not wait for a synchronous standby.
        await client.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}; set local synchronous_commit = local`)
        await client.query(`alter table only outrider.outbox alter column bucket set default ${BUCKET_DEFAULT}`)
      })
    } catch (error) {
      if (sqlState(error) !== '55P03') throw error
      if (tries === TRIES) return describeUse(await lockHolders(client))
      await wait(PAUSE_MS)
    }
  }
  return undefined
}

const describeUse = (holders: string): string =>
  `Inserts still go to the first 8 buckets of outrider.outbox: it was in use whenever its default was to be changed. Found in use by: ${holders}. ` +
  'Events are published all the same, and no bucket is emptied. End what is not needed, or wait for it; then run `outrider setup` again.'
