export type FindingKind = 'missing' | 'extra' | 'altered'

export interface AuditFinding {
  kind: FindingKind
  stream: string
  /** The event's id. */
  id: string
  /** The entry's id in the stream; not of a missing event. */
  entry?: string
  /** When the row says that it was created; not of an extra entry. */
  time?: Date
  /** The attributes that differ, of an altered event. */
  fields?: string[]
}

/** Events that are in the table or in the stream alone, and of which nothing can be said. */
export interface NotKnown {
  /** Rows of streams that were trimmed: their entries may have been there. */
  trimmed: number
  /** Rows from before the lineage's first checkpoint. */
  before: number
  /** Rows that are not confirmed yet. */
  unconfirmed: number
  /** Rows whose transaction id this server has not given. */
  alien: number
  /** Rows of a mapped table without a time. */
  undated: number
  /** Entries that are older than every row of the table. */
  rowGone: number
  /** Entries that a request has appended to another stream than their row names, or whose row is gone since. */
  republished: number
}

export interface StreamReport {
  stream: string
  missing: number
  trimmed: number
  /** More rows lack their entry than entries were removed: so many, at least, are missing. */
  missingAtLeast: number
  /** Entries that were added and are not there any more; null where Redis does not count. */
  removed: number | null
  /** The highest entry that XDEL removed. */
  deleted: string | null
}

export interface AuditReport {
  lineage: string
  source: string
  /** Rows and entries that were compared. */
  rows: number
  entries: number
  streams: number
  /** Readings of table and streams; more than one only with very many differences. */
  passes: number
  since: Date | null
  counts: Record<FindingKind, number>
  /** Counted among `trimmed`, and certainly missing. */
  missingAmongTrimmed: number
  notKnown: NotKnown
  /** Rows that an incident explains. */
  rejected: number
  /** Entries with the id of another one and the same content. */
  repeated: number
  /** Entries of other sources. */
  otherSources: number
  /** Whether everything that was committed before the audit is confirmed, as far as it mattered. */
  confirmed: boolean
  /** Streams where something is missing or not known. */
  affected: StreamReport[]
  /** At most so many of each kind as were asked for. */
  findings: AuditFinding[]
}

/** What became of the missing events of a report. */
export interface AuditRepair {
  /** The number of the request; null: nothing was missing. */
  request: string | null
  /** Events that were missing when the audit found them. */
  requested: number
  /** Events that the relay has appended; null: it was not waited for. */
  appended: number | null
  /** Events that were in their streams, or had left the outbox, when the relay began. */
  leftOut: number
  gone: number
  rejected: number
}

export const hasFindings = ({ counts, missingAmongTrimmed }: AuditReport): boolean =>
  counts.missing + counts.extra + counts.altered + missingAmongTrimmed > 0

/** What is left of them after the repair. */
export const hasFindingsLeft = (report: AuditReport, { requested, appended, leftOut }: AuditRepair): boolean =>
  hasFindings({ ...report, counts: { ...report.counts, missing: 0 } }) || requested > (appended ?? 0) + leftOut
