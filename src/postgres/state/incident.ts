import type { IncidentCause, IncidentKind } from './incident-reasons.js'

/** A stream that a gap concerns. */
export interface IncidentStream {
  key: string
  /** What was expected and what was found. */
  detail: object
}

/** Why the relay has halted the repair of a gap. */
export interface RepairHalt {
  reason: string
  /** What was expected, what was found, what to do. */
  message: string
  /** What a person can run. */
  commands: string[]
}

/** What a person should know or decide: a row of `outrider.incident`. */
export interface Incident {
  id: string
  lineage: string
  kind: IncidentKind
  reason: string
  stream: string | null
  eventId: string | null
  position: string | null
  detail: object
  /** The whole row of a rejected event: column name to text as Postgres writes it. */
  row: object | null
  openedAt: Date
  /** A gap: when its events were put back. It is closed when the transactions that were open then have ended. */
  repairedAt: Date | null
  /** A gap: a person has asked for its repair, with at most so many events. */
  repairMax: number | null
  /** A gap: null where its repair is not halted. */
  repairHalt: RepairHalt | null
  /** Streams that a gap names: how many, and the first of them by key. */
  streams: { count: number; first: IncidentStream[] }
  closedAt: Date | null
  closedBy: string | null
  resolution: string | null
}

export type NewIncident = IncidentCause & {
  lineage: string
  stream?: string
  eventId?: string
  /** Needed where `kind` is `rejected`. */
  position?: string
  detail?: object
  row?: object
}
