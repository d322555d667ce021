import type { EventIssue } from './error.js'

/**
 * What keeps a value from being stored as text of 1 to `max` characters, or undefined. Characters are counted as
 * Postgres' char_length counts them: a code point each. The message tells lengths and types, never the value.
 */
export function textIssue(name: string, value: unknown, max: number): EventIssue | undefined {
  if (typeof value !== 'string') {
    const found = value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value
    return { path: [name], message: `Expected a string of 1 to ${max} characters, found ${found}` }
  }
  const length = value.length <= max ? value.length : [...value].length
  if (length < 1 || length > max) {
    return { path: [name], message: `Expected 1 to ${max} characters, found ${length}` }
  }
  return unstorable(value) ? { path: [name], message: UNSTORABLE } : undefined
}

/** Whether Postgres cannot hold this as text: it has no NUL, and UTF-8 has no half of a surrogate pair. */
export const unstorable = (value: string): boolean => value.includes('\0') || /\p{Surrogate}/u.test(value)

export const UNSTORABLE = 'Expected text that Postgres can store, found a NUL character or half of a surrogate pair'
