import type { Database } from './database.js'
import { acceptance, type InboxKey } from './inbox.js'

/**
 * Whether a group has committed the effects of an event. Waits for a transaction that is doing it, up to 5 seconds, and leaves
 * no row. Rejects with a TransactionFailedError of the stage `opening`: a conflict where that transaction is still open.
 */
export async function isCommitted(database: Database, group: string, key: InboxKey): Promise<boolean> {
  let accepted = false
  const work = async (): Promise<never> => {
    accepted = true
    throw new Error('rolled back: only asked')
  }
  try {
    await database.transaction({ ...acceptance(group, [key], undefined), work })
    return true
  } catch (error) {
    if (!accepted) throw error
    return false
  }
}
