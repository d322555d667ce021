import { sqlState } from '../../postgres/client/transaction.js'

const MAX_CAUSES = 5
const MAX_TEXT = 1_000

/** What was thrown, as an error that can be read. Anything may be thrown: `undefined`, an object without a prototype, a proxy that throws. */
export function errorOf(thrown: unknown): Error {
  if (errorsOf(thrown).length > 0) return thrown as Error
  return new Error(typeof thrown === 'string' ? thrown : `Expected an Error to be thrown, found ${nameOf(thrown)}.`)
}

/** The error that was thrown and its causes, outermost first, as far as they are errors that can be read. */
export function errorsOf(thrown: unknown): Error[] {
  const errors: Error[] = []
  try {
    for (let at = thrown; at instanceof Error && errors.length < MAX_CAUSES; at = at.cause) {
      if (typeof at.name !== 'string' || typeof at.message !== 'string') break
      // Read here once, because a getter may throw.
      sqlState(at)
      errors.push(at)
    }
  } catch {
    // What cannot be read ends the list.
  }
  return errors
}

/** One text for what was thrown and its causes: names and messages, no stack, which names files of the team. */
export function messagesOf(thrown: unknown): string {
  const errors = errorsOf(thrown)
  const parts = errors.map((error) => `${error.name}: ${error.message}`)
  const rest = errors.length === 0 ? thrown : causeOf(errors.at(-1))
  if (parts.length < MAX_CAUSES && (rest !== undefined || parts.length === 0)) {
    parts.push(typeof rest === 'string' ? rest : nameOf(rest))
  }
  return parts.join('; caused by ')
}

function causeOf(error: Error | undefined): unknown {
  try {
    return error?.cause
  } catch {
    return undefined
  }
}

/** A value that is no error, for a person: it never throws. */
function nameOf(value: unknown): string {
  try {
    const isObject = typeof value === 'object' && value !== null
    return (isObject ? JSON.stringify(value) : String(value)).slice(0, MAX_TEXT)
  } catch {
    return `a value of type ${typeof value} that cannot be read`
  }
}
