import { batchesOf } from '../../base/in-batches.js'
import { type Position, ZERO_POSITION } from '../../event/position.js'
import type { SavedHead } from '../../postgres/state/heads.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedis } from '../../redis/client/errors.js'
import { type HeadLook, type HeadOwnership, isUnmoved, lookAtHead } from './head-ownership.js'

/** Heads looked at at once. */
const HEADS_AT_ONCE = 200

/** A head that can be taken over as it is. */
export interface KnownHead {
  /** The session that was found there. */
  session: string
  saved: Position
}

/** What all saved heads of a lineage are in Redis. */
export interface HeadSurvey {
  /** By stream key. Little is kept of each: there may be many thousands. */
  readonly known: Map<string, KnownHead>
  /** Heads that another database wrote, or may have written. */
  readonly foreign: HeadLook[]
  /** Heads of sessions that a failover may have lost. */
  readonly unrecorded: HeadLook[]
  /** Heads that lack what was saved, and streams that Redis refused to look at. */
  readonly lost: HeadLook[]
}

/** Looks at every head, one page after the other. Writes nothing, so that a copy of a database does not disturb the original. */
export async function surveyHeads(
  client: RedisClient,
  saved: AsyncIterable<ReadonlyMap<string, SavedHead>>,
  ownership: HeadOwnership,
): Promise<HeadSurvey> {
  const survey: HeadSurvey = { known: new Map(), foreign: [], unrecorded: [], lost: [] }
  // The same few strings for any number of streams.
  const sessions = new Map<string, string>()
  const sort = (look: HeadLook): void => {
    const { session, status } = look.reply
    if (look.owner === 'foreign' || look.owner === 'beyond') survey.foreign.push(look)
    else if (look.owner === 'unrecorded') survey.unrecorded.push(look)
    else if (isAccepted(look)) return
    else if (status !== 'OK') survey.lost.push(look)
    else {
      if (!sessions.has(session)) sessions.set(session, session)
      survey.known.set(look.key, { session: sessions.get(session) as string, saved: look.saved })
    }
  }
  for await (const page of saved) {
    for (const heads of batchesOf(page, HEADS_AT_ONCE)) {
      const looks = await Promise.all(
        heads.map(([key, { position, repairedBy }]) => lookAtHead(client, key, position, ownership, repairedBy)),
      )
      for (const look of looks) sort(look)
    }
  }
  return survey
}

/** A person has accepted that the stream is not what its head says: it begins again with its first event. */
const isAccepted = ({ saved, reply: { status, error } }: HeadLook): boolean =>
  saved === ZERO_POSITION && (status === 'BEHIND' || (status === 'ERROR' && classifyRedis(error).policy === 'stream'))

/** The same heads, and each of them unmoved. */
export const areUnmoved = (one: readonly HeadLook[], other: readonly HeadLook[]): boolean =>
  one.length === other.length && one.every((look, i) => look.key === other[i]?.key && isUnmoved(look, other[i]))
