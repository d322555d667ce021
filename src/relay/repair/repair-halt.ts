import { classifyPostgres } from '../../postgres/client/errors.js'
import type { RepairHalt } from '../../postgres/state/incident.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import { BarrierMismatchError } from '../../redis/streams/durability.js'
import { GapError, HaltError, RedisFaultError } from '../errors.js'
import { LossError } from '../sink/loss.js'

/** Reasons that a repair verifies before it changes anything. The others are found later. */
export const FIRST_GUARDS = ['other_redis', 'repair_too_large', 'repair_lacks_memory', 'alive_elsewhere']

/** What an error that ended a repair leaves to a person; undefined where the next session tries again without one. Pure. */
export function haltOf(error: unknown): RepairHalt | undefined {
  // It is recorded, and repaired together with the others.
  if (error instanceof GapError) return undefined
  if (error instanceof HaltError) {
    const { reason, message, commands } = error
    return { reason, message, commands: [...commands] }
  }
  if (!(error instanceof Error && 'code' in error && typeof error.code === 'string')) return undefined
  const { policy, reason } = classifyPostgres(error.code)
  if (policy !== 'halt') return undefined
  return { reason, message: `${error.message}. Run \`outrider check\`.`, commands: ['outrider check'] }
}

/** What to throw where no statement of the state store ended a repair: what is left is a fault of Redis. Pure. */
export function explainEnd(error: unknown): unknown {
  if (error instanceof BarrierMismatchError) return new RedisFaultError(error.message, { cause: error })
  if (error instanceof HaltError || error instanceof RedisFaultError || error instanceof LossError) return error
  if ((error as { code?: string }).code !== undefined) return error
  if (classifyRedisError(error).policy === 'halt') return error
  return new RedisFaultError((error as Error).message, { cause: error })
}
