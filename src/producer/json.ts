/**
 * A payload as JSON text that every library stores correctly in the column `data`. `pg`, and Kysely and Knex on top of
 * it, call `toPostgres` and send the text unchanged. Libraries that serialize JSON themselves, such as Drizzle's
 * `json()`, Prisma and TypeORM, call `toJSON` and get the value. A plain string would be encoded twice by the second
 * kind; a plain array would become a Postgres array with the first.
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

  /** Called by JSON.stringify: returns the value, so that the result is not a string in quotes. */
  toJSON(): unknown {
    return JSON.parse(this.#text)
  }

  /** Called by `pg`: returns the text to send. */
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
