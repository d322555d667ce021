import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { ForeignReason } from '../../postgres/state/incident-reasons.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { classifyRedis } from '../../redis/client/errors.js'
import type { AppendedReply, HeadReport, RefusedReply } from '../../redis/streams/append.js'
import type { StateStore } from '../confirm/state-store.js'
import { HaltError } from '../errors.js'
import { foreign } from '../identity.js'
import type { OpenReply } from './head-ownership.js'
import { describeServerWal, type ServerWal, unknownRedisError } from './server-wal.js'

/** The session cannot continue: Redis has lost something, or someone else writes to the head. */
export class LossError extends Error {
  override name = 'LossError'
  constructor(
    readonly status: 'OTHER' | 'BEHIND' | 'DIVERGED' | 'BEYOND' | 'HALT',
    readonly key: string,
    readonly reply: Pick<HeadReport, 'head' | 'session' | 'error'>,
    readonly expected: Position,
  ) {
    const why = reply.error && `: ${reply.error}`
    const what = status === 'BEHIND' ? `Stream ${key} is behind its saved head` : `${status} at stream ${key}`
    const found = reply.head.position === ZERO_POSITION ? 'none' : reply.head.position
    super(`${what}${why} (head ${found}, expected ${expected} or later)`)
  }
}

/** The loss that a reply reports which neither succeeded nor was refused. */
export const lossOf = (key: string, reply: Exclude<OpenReply, AppendedReply | RefusedReply>, expected: Position) =>
  new LossError(reply.status === 'INVALID' ? 'HALT' : reply.status, key, reply, expected)

/** The events that were published are gone: the key holds another type now. */
export const isReplaced = (error: string, expected: Position): boolean =>
  classifyRedis(error).reason === 'wrong_type' && expected !== ZERO_POSITION

/**
 * What ends the session after a loss. What Redis lost is told only by the saved heads, at the next session's start; a
 * newer session of this database is no incident; anybody else at the head is, and only the session that holds the lock can tell.
 */
export async function classifyLoss(
  loss: LossError,
  stateStore: StateStore,
  lineage: Lineage,
  server: ServerWal,
): Promise<Error> {
  const { key, status, reply, expected } = loss
  if (status === 'HALT') return new HaltError('redis_unknown', unknownRedisError(reply.error))
  if (status === 'BEHIND' || (status === 'OTHER' && (await stateStore.owns(reply.session)))) return loss
  // Another session leads now, and this one's view of the server is old.
  if (!(await stateStore.leads())) return loss
  const detail = { expected, found: reply.head, session: reply.session, server: describeServerWal(server) }
  return stateStore.inTurn((postgres) => foreign(postgres, lineage, REASONS[status], detail, key))
}

const REASONS: Record<'OTHER' | 'DIVERGED' | 'BEYOND', ForeignReason> = {
  OTHER: 'session_unknown',
  DIVERGED: 'diverged',
  BEYOND: 'wal_beyond',
}
