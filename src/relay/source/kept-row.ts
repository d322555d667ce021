/** Up to this size a row that cannot be published is kept whole in its incident. */
export const MAX_WHOLE_ROW_BYTES = 8 * 1024 * 1024

/** Of a larger row, columns up to this size are kept: its names and keys are small, its payload is not. */
export const MAX_SMALL_COLUMN_BYTES = 64 * 1024

/** What an incident keeps of a row. */
export interface KeptRow {
  row: Record<string, string | null>
  /** The columns that it does not keep, with their sizes in bytes. Their content is in the table alone. */
  omitted: Record<string, number>
}

/** Leaves the large columns out of a row that is too large to be kept whole. Pure. */
export function keepRow(row: Record<string, string | null>, omitted: Record<string, number> = {}): KeptRow {
  const sizes = Object.entries(row).map(([column, text]) => [column, Buffer.byteLength(text ?? '')] as const)
  const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0)
  if (total <= MAX_WHOLE_ROW_BYTES) return { row, omitted }
  const large = sizes.filter(([, bytes]) => bytes > MAX_SMALL_COLUMN_BYTES)
  const names = new Set(large.map(([column]) => column))
  return {
    row: Object.fromEntries(Object.entries(row).filter(([column]) => !names.has(column))),
    omitted: { ...omitted, ...Object.fromEntries(large) },
  }
}
