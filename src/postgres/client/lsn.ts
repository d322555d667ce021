/**
 * A log sequence number: a byte position in the write-ahead log, 64 bits, kept as a bigint.
 * Postgres writes it as two hexadecimal halves: `16/B374D848`.
 * https://www.postgresql.org/docs/current/datatype-pg-lsn.html
 */
export type Lsn = bigint

/** Reads Postgres' text form. Throws on anything else. */
export function parseLsn(text: string): Lsn {
  const halves = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text)
  if (!halves) throw new TypeError(`Expected an LSN such as 16/B374D848, found ${JSON.stringify(text)}.`)
  return (BigInt(`0x${halves[1]}`) << 32n) | BigInt(`0x${halves[2]}`)
}

/** Postgres' text form. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`
}
