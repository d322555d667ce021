import type { Head } from '../../postgres/heads.js'
import type { RedisClient } from '../../redis/connect.js'
import { type HeadLook, type HeadOwnership, isUnmoved, lookAtHead } from './head-ownership.js'

/** Heads looked at, or taken over, at once. */
export const HEADS_AT_ONCE = 100

/** What all saved heads of a lineage are in Redis. */
export interface HeadSurvey {
  /** The session at each head that can be taken over as it is, by stream key. */
  readonly known: Map<string, string>
  /** Heads that another database wrote, or may have written. */
  readonly foreign: HeadLook[]
  /** Heads of sessions that a failover may have lost. */
  readonly unrecorded: HeadLook[]
  /** Heads that lack what was saved, and streams that Redis refused to look at. */
  readonly lost: HeadLook[]
}

/** Looks at every head. Writes nothing, so that a copy of a database does not disturb the original. */
export async function surveyHeads(
  client: RedisClient,
  saved: ReadonlyMap<string, Head>,
  ownership: HeadOwnership,
): Promise<HeadSurvey> {
  const survey: HeadSurvey = { known: new Map(), foreign: [], unrecorded: [], lost: [] }
  // The same few strings for any number of streams.
  const sessions = new Map<string, string>()
  const streams = [...saved]
  for (let from = 0; from < streams.length; from += HEADS_AT_ONCE) {
    const looks = await Promise.all(
      streams
        .slice(from, from + HEADS_AT_ONCE)
        .map(([key, { position }]) => lookAtHead(client, key, position, ownership)),
    )
    for (const look of looks) {
      const { session, status } = look.reply
      if (look.owner === 'foreign' || look.owner === 'beyond') survey.foreign.push(look)
      else if (look.owner === 'unrecorded') survey.unrecorded.push(look)
      else if (status !== 'OK') survey.lost.push(look)
      else {
        if (!sessions.has(session)) sessions.set(session, session)
        survey.known.set(look.key, sessions.get(session) as string)
      }
    }
  }
  return survey
}

/** The same heads, and each of them unmoved. */
export const areUnmoved = (one: readonly HeadLook[], other: readonly HeadLook[]): boolean =>
  one.length === other.length && one.every((look, i) => look.key === other[i]?.key && isUnmoved(look, other[i]))
