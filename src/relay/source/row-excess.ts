/**
 * Bytes that a row's message may have beyond the largest `data`: more than all other columns of Outrider's own table can fill,
 * so that what its constraint on `data` admits is published.
 */
const MAX_OTHER_BYTES = 16 * 1024

export interface RowLimits {
  /** Bytes of a row's `data` beyond which it is rejected; its other columns may have `MAX_OTHER_BYTES` in addition. */
  maxEventBytes: number
  /** Bytes of a row beyond which Redis may not take it; it changes when Redis is asked again. */
  redisLimit: Readonly<{ bytes: number }>
}

/** Why a row is too large to be published; `size`: of all of its columns, in bytes; `row`: asked only where `data` decides. */
export function findExcess(
  size: number,
  row: { readonly dataBytes: number },
  { maxEventBytes, redisLimit }: RowLimits,
): { reason: string; message: string } | undefined {
  if (size > maxEventBytes) {
    const bytes = row.dataBytes
    if (bytes > maxEventBytes) return excessOf('too_large', 'of data', maxEventBytes, bytes)
    const most = maxEventBytes + MAX_OTHER_BYTES
    if (size > most) return excessOf('too_large', 'in all columns', most, size)
  }
  if (size <= redisLimit.bytes) return undefined
  return excessOf('too_large_for_redis', 'in all columns', redisLimit.bytes, size)
}

const excessOf = (reason: string, where: string, most: number, found: number) => ({
  reason,
  message: `expected at most ${most} bytes ${where}, found ${found}`,
})
