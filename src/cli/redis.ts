import { ExitCode, OutriderError } from '../base/failure.js'
import { closeRedis, connectRedis, type RedisClient } from '../redis/client/connect.js'
import { classifyRedisError } from '../redis/client/errors.js'
import type { Context } from './command.js'
import { printable } from './output.js'

/**
 * Runs a command's work on a connection of its own, and says for a person what Redis refused. `soFar` is what was done by
 * then, as a sentence with a space before it, or empty.
 */
export async function withRedis(
  { config }: Context,
  name: string,
  work: (client: RedisClient) => Promise<ExitCode>,
  soFar: () => string,
): Promise<ExitCode> {
  const client = await connectRedis(config.redis, name)
  try {
    return await work(client)
  } catch (error) {
    throw explain(error, soFar())
  } finally {
    closeRedis(client)
  }
}

function explain(error: unknown, soFar: string): unknown {
  if (error instanceof OutriderError || !(error instanceof Error)) return error
  const { policy, reason } = classifyRedisError(error)
  if (error.name === 'ReplyError') {
    const remedy = REMEDIES[reason] ?? '`outrider check` looks at the server.'
    return new OutriderError(`Redis refused: ${printable(error.message)}. ${remedy}${soFar}`, { cause: error })
  }
  // What no one foresaw is no matter of the connection.
  if (policy === 'halt') return error
  return new OutriderError(
    `The connection to Redis broke: ${error.message}. Check the server and run it again.${soFar}`,
    {
      exitCode: ExitCode.unreachable,
      cause: error,
    },
  )
}

const REMEDIES: Record<string, string> = {
  redis_noperm: 'Permit it in the ACL of the user, for the streams and for outrider:*.',
  redis_oom: 'It has reached its maxmemory: give it more, or trim what is not needed.',
  redis_readonly: 'This is a replica: connect to the primary.',
  wrong_type: 'The key holds something else than a stream: move it away, or leave this stream out.',
}
