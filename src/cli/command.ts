import type { ParseArgsConfig } from 'node:util'
import type { ExitCode } from '../base/failure.js'
import type { Server } from '../config/load.js'
import type { Config } from '../config/schema.js'
import type { Logger } from '../telemetry/log.js'

/** One word of the command line: `outrider <command>`. Each lives in its own file and is loaded only when it is called. */
export interface Command {
  /** One line for `outrider --help`. */
  summary: string
  /** For `outrider <command> --help`: the call, an empty line, and one line for each own option. */
  usage: string
  /** The command's own options, as `parseArgs` of node:util wants them; the common ones are added by `main.ts`. */
  options: CommandOptions
  /** What the first word behind its name may be. */
  actions?: readonly string[]
  /** Whether words may stand behind its name. */
  takesArguments?: boolean
  /** Calls to copy, each with what it is for. */
  examples?: readonly (readonly [call: string, what: string])[]
  /** Where the documentation is, in the repository. */
  docs?: string
  /** Servers that it does not use, and whose URL it does not demand. */
  unused?: readonly Server[]
  /** A long-running service logs to stdout; every other command keeps stdout for its result and logs to stderr. */
  service?: boolean
  run(context: Context): Promise<ExitCode>
}

export type CommandOptions = NonNullable<ParseArgsConfig['options']>

/** What every command is given. */
export interface Context {
  config: Config
  /** What stood behind the name without being an option. */
  args: string[]
  /** The command's own options. */
  flags: Record<string, string | boolean | string[] | undefined>
  /** Print data as JSON instead of tables. */
  json: boolean
  /** Every question is answered with yes. */
  yes: boolean
  /** How long to wait for a dependency, in milliseconds (`--timeout`). */
  timeout: number
  log: Logger
  /** Writes one line to stdout. */
  out: (text: string) => void
  /** Asks on the terminal. True with `--yes`; without a terminal it throws an OutriderError (exit code 2) that names `--yes`. */
  ask(question: string): Promise<boolean>
}
