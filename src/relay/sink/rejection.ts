import type { Position } from '../../event/position.js'
import { type KeptRow, keepRow } from '../source/kept-row.js'
import type { TakenEvent } from './batch.js'

/** A row that cannot be published, as an incident keeps it. */
export interface Rejection extends KeptRow {
  /** Short and stable: a label of metrics. */
  reason: string
  /** What was expected and what was found in this row. */
  message: string | undefined
  stream: string | undefined
  eventId: string | undefined
  position: Position
}

/** A row that today's limits, mapping or Redis do not let pass, and what waits for it. */
export interface RejectedRow {
  rejection: Rejection
  transaction: number
  /** What it counts for among the bytes in memory. */
  bytes: number
}

/** An event that was taken out of a batch, because Redis does not take it. */
export function rejectEvent(stream: string, event: TakenEvent, reason: string, bytes: number): RejectedRow {
  const { transaction, position, id: eventId, fields } = event
  return {
    rejection: { reason, message: undefined, stream, eventId, position, ...keepRow(fields) },
    transaction,
    bytes,
  }
}
