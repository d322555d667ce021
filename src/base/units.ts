const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

const SIZE_UNITS: Record<string, number> = {
  B: 1,
  kB: 1_000,
  KB: 1_000,
  MB: 1_000_000,
  GB: 1_000_000_000,
  KiB: 1_024,
  MiB: 1_048_576,
  GiB: 1_073_741_824,
}

/** `500ms`, `30s`, `10m`, `72h`, `7d`, or a number of milliseconds. Undefined for anything else. */
export const parseDuration = (value: unknown): number | undefined => parse(value, DURATION_UNITS)

/** `512KiB`, `16MiB`, `1MB` (a million), or a number of bytes. Undefined for anything else. */
export const parseSize = (value: unknown): number | undefined => parse(value, SIZE_UNITS)

/** The whole number of base units, never negative; a fraction is fine as long as it comes out whole (`1.5s`). */
function parse(value: unknown, units: Record<string, number>): number | undefined {
  if (typeof value === 'number') return safe(value)
  if (typeof value !== 'string') return undefined
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(value.trim()) ?? []
  if (digits === undefined || unit === undefined) return undefined
  const factor = unit === '' ? 1 : Object.hasOwn(units, unit) ? units[unit] : undefined
  return factor === undefined ? undefined : safe(Number(digits) * factor)
}

const safe = (number: number): number | undefined => (Number.isSafeInteger(number) && number >= 0 ? number : undefined)
