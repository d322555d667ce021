import type pg from 'pg'
import type { OutboxMapping } from '../../config/schema.js'
import { formatLsn, type Lsn, parseLsn } from '../../postgres/client/lsn.js'
import { parseTable } from '../../postgres/outbox/table-name.js'
import { findOmissions, replacePublication } from '../../postgres/replication/publication.js'
import { readSlot, type Slot } from '../../postgres/replication/slot.js'
import { createSlot, dropSlot } from '../../postgres/replication/slot-creation.js'
import type { OpenGap } from '../../postgres/state/gaps.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { holdsLock } from '../../postgres/state/sessions.js'
import { HaltError } from '../errors.js'
import { gapOfSlot } from '../identity.js'

/** How often it says what the creation of a slot waits for. */
const SAY_EVERY_MS = 10_000

export interface SlotRecoveryOptions {
  client: pg.Client
  lineage: Lineage
  mapping: OutboxMapping
  gaps: readonly OpenGap[]
  /** The process id of the replication connection, which holds the lock. */
  walsender: number
  /** The creation of a slot still waits. */
  waiting(): void
}

/**
 * Sees to it that the slot gives everything from some LSN on, and records that LSN as confirmed:
 *
 *     slot                       publication       continues from
 *     there                      whole             what is confirmed
 *     ahead of it                whole             what the slot has confirmed
 *     missing or lost            whole             the start of a new slot
 *     there                      was not whole     the end of WAL
 *
 * A publication that is not whole now halts: its owner has to act, and the rows that pass unseen meanwhile are put back after that.
 */
export async function recoverSlot(options: SlotRecoveryOptions): Promise<Lsn> {
  const { client, lineage, gaps, walsender } = options
  const has = (...reasons: string[]) => gaps.some(({ reason }) => reasons.includes(reason))
  const state = await requireWholePublication(options)
  let slot = await readSlot(client, lineage.slot)
  if (isUnrecorded(slot, gaps, parseLsn(lineage.confirmedLsn))) {
    throw new Error(`Slot ${lineage.slot} has changed since it was looked at: the repair begins again.`)
  }
  if (slot && mustReplaceSlot(slot, gaps, lineage.confirmedLsn)) {
    await dropSlot(client, lineage.slot, holdsLock(String(walsender)))
    slot = undefined
  }
  if (!slot) {
    await createSlotPatiently(options)
    slot = await readSlot(client, lineage.slot)
  }
  if (slot?.confirmedFlush === undefined) throw new Error(`Expected slot ${lineage.slot} to exist, found none.`)
  const wasIncomplete = has('publication_missing', 'publication_changed')
  let endOfWal: Lsn | undefined
  if (wasIncomplete) {
    const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
    endOfWal = parseLsn(rows[0]!.lsn)
  }
  const confirmed = continuesFrom(parseLsn(lineage.confirmedLsn), slot.confirmedFlush, endOfWal)
  const { rowCount } = await client.query(
    `update outrider.lineage set confirmed_lsn = $2, publication_state = case when $4 then $3 else publication_state end
     where lineage = $1 and outrider.publication_state(publication) = $3 and ${holdsLock('$5')}`,
    [lineage.lineage, formatLsn(confirmed), state, wasIncomplete, walsender],
  )
  if (rowCount === 0) {
    throw new Error(
      'The publication was altered while its gap was repaired, or the lock of the slot is not held any longer.',
    )
  }
  return confirmed
}

async function requireWholePublication({ client, lineage, mapping }: SlotRecoveryOptions): Promise<string> {
  const { rows } = await client.query<{ state: string | null }>('select outrider.publication_state($1) as state', [
    lineage.publication,
  ])
  const state = rows[0]!.state
  if (state === null) {
    throw new HaltError(
      'publication_missing',
      `Expected publication ${lineage.publication}, found none. Nothing newer is published. \`outrider setup\` creates it again; the relay ` +
        'then puts back by itself what was committed meanwhile.',
    )
  }
  const omitted = await findOmissions(client, lineage, mapping)
  if (omitted) {
    const { publication, table, omissions } = omitted
    throw new HaltError(
      'publication_changed',
      `Expected publication ${publication} to publish the rows of ${table}, found that it ${omissions.join(' and ')}. Nothing newer is ` +
        `published. Replace it: \`${replacePublication(publication, parseTable(table)).replaceAll('\n', ' ')}\`; the relay then puts ` +
        'back by itself what was committed meanwhile.',
    )
  }
  return state
}

/**
 * Has the slot lost something that no gap says? Nothing reads it while a repair waits for Redis, perhaps for hours. Only a gap of the slot
 * makes the repair look at every stream, and listen for another relay before it creates a slot. Pure.
 */
export function isUnrecorded(
  slot: Pick<Slot, 'walStatus' | 'confirmedFlush'> | undefined,
  gaps: readonly Pick<OpenGap, 'reason'>[],
  confirmed: Lsn,
): boolean {
  const found = slot === undefined ? 'slot_missing' : gapOfSlot(slot, confirmed)
  if (found === undefined) return false
  const known = found === 'slot_ahead' ? ['slot_ahead', 'slot_missing', 'slot_lost'] : ['slot_missing', 'slot_lost']
  return !gaps.some(({ reason }) => known.includes(reason))
}

/** From where WAL is read after a repair. `endOfWal`: where the publication was not whole, else undefined. Pure. */
export function continuesFrom(confirmed: Lsn, slotConfirmed: Lsn, endOfWal: Lsn | undefined): Lsn {
  if (endOfWal !== undefined) return endOfWal
  return slotConfirmed > confirmed ? slotConfirmed : confirmed
}

/** Can WAL not be read from the slot any longer, or not be decoded, unless a new one has taken its place since? Pure. */
export const mustReplaceSlot = (
  { walStatus }: Pick<Slot, 'walStatus'>,
  gaps: readonly Pick<OpenGap, 'reason' | 'detail'>[],
  confirmedLsn: string,
): boolean =>
  walStatus === 'lost' ||
  gaps.some(
    ({ reason, detail }) =>
      reason === 'slot_lost' && 'message' in detail && Reflect.get(detail, 'confirmed') === confirmedLsn,
  )

/**
 * Postgres first waits for every write transaction of the cluster that is open, and begins again with none of them: so it is not
 * given a limit. An orphaned prepared transaction is waited for without end. When the session ends, so does the wait.
 */
async function createSlotPatiently({ client, lineage, waiting }: SlotRecoveryOptions): Promise<void> {
  const timer = setInterval(waiting, SAY_EVERY_MS)
  try {
    await createSlot(client, lineage.slot, 0)
  } finally {
    clearInterval(timer)
  }
}
