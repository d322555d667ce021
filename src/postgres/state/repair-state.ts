import { type Config, OWN_OUTBOX } from '../../config/schema.js'
import type { Incident, RepairHalt } from './incident.js'
import { REPAIRABLE } from './incident-reasons.js'
import type { RepairProgress } from './repair-progress.js'

/** What is repaired without a person. */
export interface RepairPolicy {
  /** Gaps are repaired without being asked for (`onGap`). */
  repairs: boolean
  /** The outbox is a table of the application, or has another mapping: its rows are not put back. */
  mapped?: boolean
}

/** Only Outrider's own table says which transaction inserted a row; and streams must be named by its own columns. */
export const isOwnOutbox = ({ table, stream, columns }: Config['outbox']): boolean =>
  table === OWN_OUTBOX.table &&
  stream === OWN_OUTBOX.stream &&
  columns.id === OWN_OUTBOX.columns.id &&
  columns.subject === OWN_OUTBOX.columns.subject

/** `outboxTable`: of the lineage. */
export const repairPolicy = (
  { onGap, outbox }: Pick<Config, 'onGap' | 'outbox'>,
  outboxTable = outbox.table,
): RepairPolicy => ({
  repairs: onGap === 'repair',
  mapped: outboxTable !== OWN_OUTBOX.table || !isOwnOutbox(outbox),
})

export const isSelfRepairing = ({ repairs, mapped }: RepairPolicy): boolean => repairs && !mapped

export const isRepairable = ({ kind, reason }: Pick<Incident, 'kind' | 'reason'>, { mapped }: RepairPolicy): boolean =>
  kind === 'gap' && !mapped && REPAIRABLE.has(reason)

/**
 * Where an open gap is on its way to being repaired.
 *
 *     due ──────► running ──────► settling ──► closed
 *     asked for ──┴──► blocked, until what it names is corrected or permitted
 *
 * `none`: nothing of it is repaired, a person decides. `halted`: the configuration leaves it to a person to ask for it.
 */
export type RepairState =
  | { is: 'none' | 'halted' | 'due' }
  | { is: 'running'; progress: RepairProgress }
  | { is: 'blocked'; halt: RepairHalt }
  | { is: 'settling'; progress: RepairProgress | undefined }

export type RepairedIncident = Pick<
  Incident,
  'kind' | 'reason' | 'openedAt' | 'closedAt' | 'repairedAt' | 'repairMax' | 'repairHalt'
>

/** Pure. */
export function repairStateOf(
  incident: RepairedIncident,
  policy: RepairPolicy,
  progress: RepairProgress | undefined,
): RepairState {
  if (incident.closedAt !== null || incident.kind !== 'gap') return { is: 'none' }
  if (incident.repairedAt !== null) return { is: 'settling', progress }
  if (!isRepairable(incident, policy)) return { is: 'none' }
  if (!policy.repairs && incident.repairMax === null) return { is: 'halted' }
  if (incident.repairHalt !== null) return { is: 'blocked', halt: incident.repairHalt }
  // Of an earlier gap, whose transactions are awaited.
  if (!progress || progress.beganAt < incident.openedAt) return { is: 'due' }
  return { is: 'running', progress }
}
