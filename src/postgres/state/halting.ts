import type { Incident } from './incident.js'
import { type OpenIncident, type Remedy, remedyOf, stepsOf } from './remedy.js'
import type { RepairProgress } from './repair-progress.js'
import { type RepairPolicy, type RepairState, repairStateOf } from './repair-state.js'

/** An open incident, and how many streams a gap concerns. */
export type HaltingIncident = Omit<OpenIncident, 'repairMax'> &
  Pick<Incident, 'openedAt' | 'closedAt' | 'repairedAt' | 'repairMax' | 'repairHalt'> & { streams: number }

/** For a query of `outrider.incident`. */
export const HALTING_COLUMNS = `id::text, kind, reason, stream, detail, opened_at as "openedAt", closed_at as "closedAt",
  repaired_at as "repairedAt", repair_max::float8 as "repairMax", repair_halt as "repairHalt",
  (select count(*)::integer from outrider.gap_stream as g where g.incident = incident.id) as streams`

/** An open incident of a kind that halts a relay, and what leads on. */
export interface Halting {
  incident: HaltingIncident
  repair: RepairState
  /** What a person has to do. */
  steps: Pick<Remedy, 'sql' | 'commands'>
  /** The relay repairs it, or will, and needs no person. */
  byItself: boolean
}

/** Of these incidents the gaps and the foreign servers. `version`: the server's, as `server_version_num`. Pure. */
export const haltingIncidents = (
  incidents: readonly HaltingIncident[],
  progress: RepairProgress | undefined,
  version: number,
  policy: RepairPolicy,
): Halting[] =>
  incidents
    .filter(({ kind }) => kind === 'gap' || kind === 'foreign')
    .map((incident) => {
      const repair = repairStateOf(incident, policy, progress)
      const steps = stepsOf(incident, remedyOf(incident, version, policy), repair)
      const byItself = repair.is !== 'blocked' && steps.sql.length + steps.commands.length === 0
      return { incident, repair, steps, byItself }
    })

/** Where something is in streams, as the end of a sentence; empty where no stream is named. */
export const inStreams = ({ stream, streams }: Pick<HaltingIncident, 'stream' | 'streams'>): string => {
  if (stream !== null) return ` in stream ${stream}`
  return streams > 0 ? ` in ${streams} ${streams === 1 ? 'stream' : 'streams'}` : ''
}
