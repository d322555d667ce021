import { describe, expect, it } from 'vitest'
import { keepRow, MAX_SMALL_COLUMN_BYTES, MAX_WHOLE_ROW_BYTES } from './kept-row.js'

describe('what an incident keeps of a row', () => {
  it('is everything up to 8 MiB, nulls included', () => {
    const row = { id: 'e1', subject: null, data: 'x'.repeat(MAX_WHOLE_ROW_BYTES - 2) }
    expect(keepRow(row)).toEqual({ row, omitted: {} })
  })

  it('is the small columns beyond that, and the sizes of the others in bytes, not characters', () => {
    const small = 'x'.repeat(MAX_SMALL_COLUMN_BYTES)
    const row = { id: 'e1', subject: small, note: `${small}x`, data: 'Ω'.repeat(MAX_WHOLE_ROW_BYTES / 2) }
    expect(keepRow(row, { body: 99 })).toEqual({
      row: { id: 'e1', subject: small },
      omitted: { note: MAX_SMALL_COLUMN_BYTES + 1, data: MAX_WHOLE_ROW_BYTES, body: 99 },
    })
  })
})
