import type pg from 'pg'
import { pause } from '../../base/backoff.js'
import { readSlot, type Slot } from '../../postgres/replication/slot.js'

const ASK_EVERY_MS = 50

/**
 * Waits until the walsender reads the slot, which cannot be dropped from then on, and resolves with the slot. One that was dropped and
 * created again just before is another than was verified: it begins where it was created, whatever LSN was asked for, and
 * nothing says so. Undefined if the signal aborts before that.
 */
export async function awaitSlotInUse(
  inTurn: <T>(work: (client: pg.ClientBase) => Promise<T>) => Promise<T>,
  slot: string,
  pid: number,
  signal: AbortSignal,
): Promise<Slot | undefined> {
  while (!signal.aborted) {
    const found = await inTurn((client) => readSlot(client, slot))
    if (found?.activePid === pid) return found
    await pause(ASK_EVERY_MS, signal)
  }
  return undefined
}
