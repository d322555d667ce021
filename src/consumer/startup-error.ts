import { ExitCode, OutriderError } from '../base/failure.js'
import { sqlState } from '../postgres/client/transaction.js'
import { classifyDatabaseError } from './inbox/error-class.js'
import { isReply, StoppedError } from './redis/reconnecting-client.js'

/** The error that `start` rejects with: what is wrong, and what to do where it is known. Pure. */
export function explainStartupError(error: unknown): unknown {
  if (error instanceof OutriderError || error instanceof StoppedError || !(error instanceof Error)) return error
  const state = sqlState(error) ?? ''
  if (/^(3F000|42P01|42883|42703)$/.test(state)) {
    return new OutriderError(
      `Expected Outrider's inbox in the workers' database, as this version has it, found it missing or older: ${error.message}. ` +
        'Check which database the pool connects to; `outrider setup --only inbox` creates or completes it.',
      { cause: error },
    )
  }
  if (state === '42501') {
    const advice = 'Grant outrider_consumer to the role that the pool connects as.'
    return new OutriderError(`The worker's role lacks a privilege: ${error.message}. ${advice}`, { cause: error })
  }
  if (classifyDatabaseError({ cause: error, stage: 'opening', session: 'aborted' }) === 'outage' && !isReply(error)) {
    const advice = 'Check what the pool connects to.'
    return new OutriderError(
      `The workers' database cannot be used: ${withoutStop(error.message) || state}. ${advice}`,
      {
        cause: error,
        exitCode: ExitCode.unreachable,
      },
    )
  }
  return error
}

/** The same for what a request to Redis fails with: by its error alone, a lost connection could be one to the database. Pure. */
export function explainRedisStartupError(error: unknown): unknown {
  if (error instanceof OutriderError || error instanceof StoppedError || isReply(error) || !(error instanceof Error))
    return error
  return new OutriderError(
    `Redis cannot be used: ${withoutStop(error.message)}. The connection was lost while the consumer started.`,
    {
      cause: error,
      exitCode: ExitCode.unreachable,
    },
  )
}

const withoutStop = (message: string): string => message.replace(/\.$/, '')
