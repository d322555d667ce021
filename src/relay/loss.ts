import type { Position } from '../event/position.js'
import type { ForeignReason } from '../postgres/incident-reasons.js'
import type { Lineage } from '../postgres/lineage.js'
import type { AppendReply } from '../redis/append.js'
import { Halt } from './halt.js'
import { foreign } from './identity.js'
import type { Ledger } from './ledger.js'
import { describe, type ServerWal, unknown } from './sink/server-wal.js'

/** The session cannot go on: Redis has lost something, or somebody else writes to the head. */
export class Loss extends Error {
  override name = 'Loss'
  constructor(
    readonly status: 'OTHER' | 'BEHIND' | 'DIVERGED' | 'BEYOND' | 'HALT',
    readonly key: string,
    readonly reply: Pick<AppendReply, 'head' | 'session' | 'error'>,
    readonly expected: Position,
  ) {
    const why = reply.error && `: ${reply.error}`
    super(`${status} at stream ${key}${why} (head ${reply.head.position}, expected ${expected} or later)`)
  }
}

/**
 * What ends the session after a loss. What Redis lost is told only by the saved heads, at the next session's start; a
 * newer session of this database is no incident; anybody else at the head is, and only the session that holds the lock can tell.
 */
export async function judgeLoss(loss: Loss, ledger: Ledger, lineage: Lineage, server: ServerWal): Promise<Error> {
  const { key, status, reply, expected } = loss
  if (status === 'HALT') return new Halt('redis_unknown', unknown(reply.error))
  if (status === 'BEHIND' || (status === 'OTHER' && (await ledger.owns(reply.session)))) return loss
  // Another session leads now, and this one's view of the server is old.
  if (!(await ledger.leads())) return loss
  const detail = { expected, found: reply.head, session: reply.session, server: describe(server) }
  return ledger.inTurn((postgres) => foreign(postgres, lineage, REASONS[status], detail, key))
}

const REASONS: Record<'OTHER' | 'DIVERGED' | 'BEYOND', ForeignReason> = {
  OTHER: 'session_unknown',
  DIVERGED: 'diverged',
  BEYOND: 'wal_beyond',
}
