import { hash } from 'node:crypto'

/** A 64-bit hash as two unsigned halves, so that typed arrays can hold it. */
export interface Hash {
  high: number
  low: number
}

/** What an event says, without the attributes that only its place in the stream decides. */
export interface Digest {
  /** Of all fields but `sequence` and `time`. */
  content: number
  /** Of `time`; 0 where it is not compared. */
  time: number
}

/** Longer values are compared by their SHA-256, which Postgres computes: no page of rows holds large payloads. */
export const MAX_COMPARED_CHARACTERS = 8_192

export const HASHED = 'sha256:'

/** One event in one stream. 64 bits: among 10,000,000 events two meet once in about 400,000 audits. */
export function hashEvent(stream: string, id: string): Hash {
  const bytes = hash('sha256', `${stream}\0${id}`, 'buffer')
  const high = bytes.readUInt32LE(0)
  // Both halves 0 marks a free place.
  return { high, low: bytes.readUInt32LE(4) || Number(high === 0) }
}

/** The value itself, or its hash where it is long. Characters are counted as Postgres counts them: a code point each. */
export function comparable(value: string): string {
  if (value.length <= MAX_COMPARED_CHARACTERS) return value
  let characters = 0
  for (const _ of value) characters++
  return characters <= MAX_COMPARED_CHARACTERS ? value : HASHED + hash('sha256', value, 'hex')
}

/** `fields`: attributes by name, long values already as their hashes. Their order does not count. */
export function digestOf(fields: Readonly<Record<string, string>>, withTime: boolean): Digest {
  let text = ''
  for (const name of Object.keys(fields).sort()) {
    if (name === 'sequence' || name === 'time') continue
    // A length before each value: no two sets of fields give the same text.
    const value = fields[name] as string
    text += `${name}=${value.length}:${value}\n`
  }
  return { content: short(text), time: withTime && fields.time !== undefined ? short(fields.time) || 1 : 0 }
}

export const sameDigest = (one: Digest, other: Digest): boolean =>
  one.content === other.content && (one.time === other.time || one.time === 0 || other.time === 0)

/** The attributes in which two events differ; `time` only where the row has one. */
export function differingFields(
  expected: Readonly<Record<string, string>>,
  found: Readonly<Record<string, string>>,
  withTime: boolean,
): string[] {
  const names = new Set([...Object.keys(expected), ...Object.keys(found)])
  return [...names]
    .filter((name) => name !== 'sequence' && (withTime || name !== 'time') && expected[name] !== found[name])
    .sort()
}

const short = (text: string): number => hash('sha256', text, 'buffer').readUInt32LE(0)
