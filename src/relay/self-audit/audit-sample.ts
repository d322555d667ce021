import type pg from 'pg'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { RedisClient } from '../../redis/client/connect.js'

/** Rows between two checkpoints, from one transaction on. */
export interface SampledRange {
  /** Snapshots, as text: rows that the second one sees and the first one does not. */
  after: string
  before: string
  /** Rows of earlier transactions are left out. */
  from: string
  /** When the first checkpoint was saved. */
  since: Date
}

export interface SampleFinding {
  kind: 'missing' | 'extra' | 'altered'
  stream: string
  id: string
}

export interface SampleReport {
  range: SampledRange
  /** Rows that were compared. */
  rows: number
  findings: readonly SampleFinding[]
}

export interface SampleOptions {
  /** A connection of its own. */
  postgres: pg.Client
  redis: RedisClient
  lineage: Lineage
  /** Only what was published since it began is audited: no repair, move or failover lies in between. */
  session: string
  /** Rows that were audited before; undefined: others are chosen. */
  range: SampledRange | undefined
  /** At least 0, and below 1. */
  random(): number
  /** Aborted when the session ends. */
  signal: AbortSignal
}

/** Compares some rows with what their streams hold. Undefined: nothing can be said. See src/audit/sample.ts. */
export type AuditSample = (options: SampleOptions) => Promise<SampleReport | undefined>
