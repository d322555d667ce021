import type { Shape } from './shape.js'

/** Takes the parts of an event one after the other: position, id, shape, values. */
export interface EventSink {
  text(value: string): void
  /** UTF-8, read at once. */
  bytes(data: Buffer, start: number, end: number): void
  shape(shape: Shape): void
}

/** The columns of a row where they lie in a message, by slots. */
export interface RowColumns {
  readonly data: Buffer
  /** Where each column begins; negative for null. */
  readonly starts: Int32Array
  readonly ends: Int32Array
}

/** A column as text. */
export function textOf({ data, starts, ends }: RowColumns, slot: number): string | null {
  const start = starts[slot] as number
  return start < 0 ? null : data.toString('utf8', start, ends[slot])
}
