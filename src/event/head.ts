import type { Position } from './position.js'

/** The last event of one lineage in one stream, as Redis has it beside the stream and Postgres knows it to be safe. */
export interface Head {
  position: Position
  event: string
  /** The stream entry's id. */
  entry: string
}
