/** What a command ends with. Contract: 0 done, 1 failed, 2 wrong usage or configuration, 3 unreachable, 4 findings. */
export const ExitCode = { done: 0, failed: 1, usage: 2, unreachable: 3, findings: 4 } as const
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/**
 * An error that is meant to be read by a person: the message says what was expected, what was found and what to do,
 * and holds no secret. The command line prints it without a stack trace and ends with its exit code.
 */
export class OutriderError extends Error {
  override name = 'OutriderError'
  readonly exitCode: ExitCode

  constructor(message: string, options: { exitCode?: ExitCode; cause?: unknown } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.exitCode = options.exitCode ?? ExitCode.failed
  }
}
