import { classifyRedis } from '../../redis/client/errors.js'

/** A stream must not be trimmed now. */
export class HeldError extends Error {}

/** Errors of Redis that a person has to correct, of one stream. Any other may say that this server is no primary any more. */
const OF_STREAM: ReadonlySet<string> = new Set(['redis_noperm', 'wrong_type'])

/** Does the error concern one stream, and say nothing of the connection? */
export const isOfStream = (error: unknown): boolean =>
  error instanceof HeldError || (error instanceof Error && OF_STREAM.has(classifyRedis(error.message).reason))
