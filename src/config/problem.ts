import { ExitCode, OutriderError } from '../base/failure.js'
import { maskUrl } from '../base/secret.js'

/** One thing that is wrong with the configuration. */
export interface Problem {
  /** The variable, or the path in the file. */
  name: string
  expected: string
  found: string
}

const LONGEST = 80

/** A value as it may be shown: no password, no URL with one in it, nothing endless. */
export function shown(path: string, value: unknown): string {
  if (value === undefined) return 'nothing'
  const key = path.split('.').at(-1) ?? ''
  if (/password$/i.test(key)) return '(hidden)'
  if (typeof value === 'string') {
    if (/url$/i.test(key)) return maskUrl(value)
    // A password that was put where the path of its file belongs is not shown either.
    if (/(password|url)File$/i.test(key) && !/^\.{0,2}\//.test(value)) return '(hidden)'
  }
  const text = JSON.stringify(value) ?? String(value)
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text
}

/** All problems in one OutriderError: one line for one, a list for more. */
export function refuse(problems: Problem[]): OutriderError {
  const lines = problems.map(({ name, expected, found }) => `${name}: expected ${expected}; found ${found}`)
  const message =
    lines.length === 1
      ? `Configuration: ${lines[0]}`
      : `Configuration: ${lines.length} settings are wrong\n${lines.map((line) => `  ${line}`).join('\n')}`
  return new OutriderError(message, { exitCode: ExitCode.usage })
}
