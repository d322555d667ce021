/**
 * A payload as JSON text, fit for the `data` column through any library: `pg` (and Kysely, Knex … on top of it) sends the
 * text as it is, libraries that write JSON themselves (Drizzle's `json()`, Prisma, TypeORM …) meet the value it stands
 * for. A bare string would be doubly encoded by the second kind, a bare array taken for a Postgres array by the first.
 */
export class JsonText {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  /** The JSON text itself. */
  toString(): string {
    return this.#text
  }

  /** What JSON.stringify writes in its place: the value, not a string. */
  toJSON(): unknown {
    return JSON.parse(this.#text)
  }

  /** What `pg` sends in its place. */
  toPostgres(): string {
    return this.#text
  }
}

/**
 * A value as JSON text; undefined stays undefined: an event without a payload. Throws a TypeError for what JSON cannot
 * carry, and for NaN and Infinity, which JSON.stringify would turn into null without a word.
 */
export function toJson(value: unknown): string | undefined {
  if (value === undefined) return undefined
  const text = JSON.stringify(value) as string | undefined
  if (text === undefined) throw new TypeError(`Expected a value that JSON can carry, found a ${typeof value}`)
  // Looked for only where a null was written: most payloads pay nothing.
  if (text.includes('null')) JSON.stringify(value, refuseNonFinite)
  return text
}

function refuseNonFinite(key: string, value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    throw new TypeError(`Expected a finite number${key === '' ? '' : ` in ${JSON.stringify(key)}`}, found ${value}`)
  }
  return value
}
