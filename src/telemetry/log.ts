import pino from 'pino'
import pretty from 'pino-pretty'
import { OutriderError } from '../base/failure.js'
import { maskUrlsIn } from '../base/secret.js'

export type Logger = pino.Logger

export interface LogOptions {
  level: string
  /** Lines for a person instead of JSON. Default: when the output is a terminal. */
  pretty?: boolean
  /** `stdout` for a service, `stderr` (the default) for a command, whose stdout is for its result. */
  output?: 'stdout' | 'stderr'
}

const SECRETS = ['password', 'secret', 'token', 'auth', 'key', 'sentinelPassword']

/** What waits for a reader that has stopped; lines beyond that are dropped rather than kept in memory. */
const MOST_BUFFERED_BYTES = 16_777_216

/**
 * Logs as JSON lines. Writing is asynchronous: a reader that is slow, or has stopped, never holds the relay up; what is
 * still buffered is written when the process ends by itself. Passwords are taken out of keys that sound like one, and
 * out of every URL in a line.
 */
export function createLogger(options: LogOptions): Logger {
  const fd = options.output === 'stdout' ? 1 : 2
  const terminal = fd === 1 ? process.stdout.isTTY : process.stderr.isTTY
  const stream =
    (options.pretty ?? terminal)
      ? pretty({
          destination: fd,
          sync: true,
          colorize: terminal && !process.env.NO_COLOR,
          ignore: 'service,pid,hostname',
        })
      : pino.destination({ fd, sync: false, maxLength: MOST_BUFFERED_BYTES })
  return pino(
    {
      level: options.level,
      base: { service: 'outrider' },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRETS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: '***' },
      serializers: { err: describeError, error: describeError },
      hooks: { streamWrite: maskUrlsIn },
    },
    stream,
  )
}

export interface ErrorDescription {
  type: string
  message: string
  code?: string
  stack?: string
  cause?: ErrorDescription
}

/**
 * An error for the log. Only named properties are taken: errors of ioredis carry the command with its arguments (of AUTH,
 * too), errors of pg carry rows. An OutriderError explains itself, so it comes without a stack.
 */
export function describeError(error: unknown, depth = 0): ErrorDescription {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) }
  const { code, cause } = error as { code?: unknown; cause?: unknown }
  return {
    type: error.name,
    message: error.message,
    ...(typeof code === 'string' ? { code } : {}),
    ...(error instanceof OutriderError || error.stack === undefined ? {} : { stack: error.stack }),
    ...(cause === undefined || depth >= 3 ? {} : { cause: describeError(cause, depth + 1) }),
  }
}
