/** The id of an entry in a Redis stream, `milliseconds-number`. */
export type EntryId = string

/** Before every entry. */
export const ZERO_ENTRY: EntryId = '0-0'

/** Below 0 where the first id is before the second. */
export function compareIds(one: EntryId, other: EntryId): number {
  const [a = '0', b = '0'] = one.split('-')
  const [c = '0', d = '0'] = other.split('-')
  return a === c ? Number(BigInt(b) - BigInt(d)) : Number(a) - Number(c)
}

/** When an entry was appended, by the clock of Redis, in milliseconds. */
export const timeOf = (entry: EntryId): number => Number.parseInt(entry, 10)
