import { classifyPostgres } from '../../postgres/client/errors.js'
import type { RepairHalt } from '../../postgres/state/incident.js'
import { GapError, HaltError } from '../errors.js'

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
