import { ExitCode, OutriderError } from '../base/failure.js'
import { closest } from '../config/suggestion.js'
import { printable } from './output.js'

export const usage = (message: string): OutriderError => new OutriderError(message, { exitCode: ExitCode.usage })

/** For a word behind a command that is none of its actions. */
export function unknownAction(command: string, found: string, actions: readonly string[]): OutriderError {
  const meant = closest(found, actions)
  const known = `${actions.slice(0, -1).join(', ')} or ${actions.at(-1)}`
  return usage(
    `Expected ${known}, found "${printable(found)}". ${meant ? `Did you mean ${meant}? ` : ''}See \`outrider ${command} --help\`.`,
  )
}

/** A filter that selects nothing because it is mistyped must not look like good news. */
export function unknownFilter(option: string, found: string, known: Iterable<string>): OutriderError {
  const names = [...new Set(known)]
  const meant = closest(found, names)
  const shown = names.slice(0, 5).join(', ')
  const there = names.length === 0 ? 'There is none.' : `There is ${shown}${names.length > 5 ? ' …' : ''}.`
  return usage(printable(`--${option}: found no ${option} "${found}". ${meant ? `Did you mean ${meant}?` : there}`))
}
