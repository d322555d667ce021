import type pg from 'pg'
import type { RepairHalt } from './incident.js'
import { holdsLock } from './sessions.js'

/** Gaps of a lineage that a repair would put right: all of them at once. */
const OPEN_GAPS = "lineage = $1 and kind = 'gap' and closed_at is null and repaired_at is null"

/**
 * Records with the open gaps of a lineage why their repair is halted. `walsender`: the process that holds the lock; without the
 * lock nothing is written.
 */
export async function saveRepairHalt(
  client: pg.ClientBase,
  { lineage, walsender }: { lineage: string; walsender: number },
  halt: RepairHalt,
): Promise<void> {
  await client.query(
    `update outrider.incident set repair_halt = $2::jsonb
     where ${OPEN_GAPS} and repair_halt is distinct from $2::jsonb and ${holdsLock('$3')}`,
    [lineage, JSON.stringify(halt), walsender],
  )
}

/** The repair is not halted any longer; with `reasons`: unless for another one. */
export async function clearRepairHalt(
  client: pg.ClientBase,
  lineage: string,
  reasons?: readonly string[],
): Promise<void> {
  await client.query(
    `update outrider.incident set repair_halt = null
     where ${OPEN_GAPS} and repair_halt is not null and ($2::text[] is null or repair_halt ->> 'reason' = any ($2))`,
    [lineage, reasons ?? null],
  )
}
