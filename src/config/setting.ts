import { z } from 'zod'
import { parseDuration, parseSize } from '../base/units.js'

/** As JSON Schema has it, for those who check a configuration before Outrider sees it; it may let through more. */
interface JsonKind {
  type?: string | string[]
  enum?: readonly string[]
  items?: { type: string }
}

/**
 * A kind of setting. `read` returns undefined for a value that it does not accept, or throws a TypeError that says what it
 * expected instead. The issue says what was expected; `load.ts` adds the name, what was found and where.
 */
export const setting = <T>(expected: string, read: (value: unknown) => T | undefined, kind: JsonKind = {}) =>
  z
    .unknown()
    .meta({ description: expected, ...kind })
    .transform((input, context): T => {
      let message = expected
      try {
        const value = read(input)
        if (value !== undefined) return value
      } catch (error) {
        if (!(error instanceof TypeError)) throw error
        message = error.message
      }
      context.addIssue({ code: 'custom', message, input })
      return z.NEVER
    })

const TEXT = { type: 'string' }
const NUMBER = { type: ['number', 'string'] }

export const text = (expected = 'a text') =>
  setting(expected, (value) => (typeof value === 'string' && value !== '' ? value : undefined), TEXT)

export const matching = (pattern: RegExp, expected: string) =>
  setting(expected, (value) => (typeof value === 'string' && pattern.test(value) ? value : undefined), TEXT)

export const oneOf = <const T extends string>(...choices: T[]) =>
  setting(`one of ${choices.join(', ')}`, (value) => choices.find((choice) => choice === value), { enum: choices })

/** Variables are texts, so a number may be written as one. */
export const integer = (from: number, to: number, what = 'a whole number') =>
  setting(
    `${what} from ${from} to ${to}`,
    (value) => {
      const number = typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value
      return typeof number === 'number' && Number.isInteger(number) && number >= from && number <= to
        ? number
        : undefined
    },
    NUMBER,
  )

export const duration = (max: string) =>
  setting(
    `a duration such as 500ms, 30s, 10m or 72h, above 0 and at most ${max}`,
    (value) => {
      const ms = parseDuration(value)
      return ms !== undefined && ms > 0 && ms <= (parseDuration(max) as number) ? ms : undefined
    },
    NUMBER,
  )

export const durationOrZero = (max: string) =>
  setting(
    `a duration such as 500ms, 30s, 10m or 72h, at most ${max}; or 0`,
    (value) => {
      const ms = parseDuration(value)
      return ms !== undefined && ms >= 0 && ms <= (parseDuration(max) as number) ? ms : undefined
    },
    NUMBER,
  )

export const size = (max: string) =>
  setting(
    `a size such as 512KiB, 16MiB or a number of bytes, above 0 and at most ${max}`,
    (value) => {
      const bytes = parseSize(value)
      return bytes !== undefined && bytes > 0 && bytes <= (parseSize(max) as number) ? bytes : undefined
    },
    NUMBER,
  )

/** A URL that `parse` accepts, kept as it is written. `parse` throws a TypeError that says what it expected. */
export const url = (expected: string, parse: (url: string) => unknown) =>
  setting(
    expected,
    (value) => {
      if (typeof value !== 'string') return undefined
      parse(value)
      return value
    },
    TEXT,
  )
