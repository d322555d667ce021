import type pg from 'pg'
import type { OutboxMapping } from '../config/schema.js'
import type { Lineage } from '../postgres/state/lineage.js'
import type { RedisClient } from '../redis/client/connect.js'

export interface AuditOptions {
  /** A session of its own. */
  postgres: pg.Client
  redis: RedisClient
  lineage: Lineage
  mapping: OutboxMapping
  /** One stream with its partitions, or one partition; undefined: all. */
  stream?: string | undefined
  /** In milliseconds since 1970: what was committed before it is left out. */
  since?: number | undefined
  /** How long, in milliseconds, rows that lack their entry may take to be confirmed. */
  wait: number
  /** Findings of each kind that the report lists. */
  limit: number
  /** Events without counterpart that are held in memory, 17 to 51 bytes each. */
  maxUnmatched?: number
  progress?: (progress: AuditProgress) => void
  /** Is given all missing events, some at a time, by their id and the key of their stream. */
  missing?: (events: readonly MissingEvent[]) => Promise<void>
}

export type MissingEvent = readonly [id: string, key: string]

export interface AuditProgress {
  /** `compare`, then what lacks its counterpart is looked up. */
  step: 'compare' | 'wait' | 'look up'
  rows: number
  /** Roughly, as the planner estimates it. */
  rowsInAll: number
  entries: number
}
