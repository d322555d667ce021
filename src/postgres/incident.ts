import type { IncidentCause, IncidentKind } from './incident-reasons.js'

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
