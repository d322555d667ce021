import type { Head } from '../../event/head.js'
import { isRepairPlace, type Position, ZERO_POSITION } from '../../event/position.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { type AppendReply, append, batchArguments, type HeadReport } from '../../redis/streams/append.js'
import { isSoundAlone, mayHaveSoundEnd } from './sound-end.js'

/** What tells whose head it is. */
export interface HeadOwnership {
  lineage: string
  session: string
  /** Did the database issue this session? */
  owns(session: string): Promise<boolean>
  /** In the order in which sessions began; undefined where the database did not issue it. */
  numberOf(session: string): Promise<number | undefined>
  /** Where the chain begins at a head that an earlier session left; undefined when this database cannot have written it. */
  chain(head: Head, saved: Position): Position | undefined
  /** May a failover have lost the row of a session that this database does not know? */
  mayBeUnrecorded(session: string, position: Position): boolean
  /** Waits, and resolves with whether no other relay has said meanwhile that it leads this lineage. */
  othersAreSilent(client: RedisClient): Promise<boolean>
  /** Of the stream's head as it is saved now, by whichever session; undefined where none is. */
  savedPosition(key: string): Promise<Position | undefined>
  /** A head that an earlier session left belongs to this one now. */
  tookOver(key: string, head: Head, session: string): Promise<void>
}

/**
 * known       this session's, or an earlier one's of this database; or there is no head
 * unrecorded  of a session that this database did not issue, on a timeline that it has left: a failover may have lost the
 *             session's row, or the database that is still on that timeline publishes. Of a version whose relays are heard
 * foreign     of a session that this database did not issue
 * beyond      of a session that this database issued, and the head lies where this database has written nothing: a copy
 */
export type HeadOwner = 'known' | 'unrecorded' | 'foreign' | 'beyond'

/** A head as it was found, without a change to it. */
export interface HeadLook {
  key: string
  saved: Position
  owner: HeadOwner
  reply: AppendReply
}

/** The reply to opening a head. BEYOND: this server cannot have written it. */
export type OpenReply = AppendReply | (HeadReport & { status: 'BEYOND' })

/**
 * Whose is the head, and is everything there that `saved` says? Writes nothing. `repairedBy`: the number of the session that
 * repaired the stream last. A head of an earlier session is from before that repair, wherever it lies: an old primary that
 * came back has none of the events that were put back.
 */
export async function lookAtHead(
  client: RedisClient,
  key: string,
  saved: Position,
  ownership: HeadOwnership,
  repairedBy: number | null = null,
): Promise<HeadLook> {
  const reply = await append(client, batchArguments(key, ownership.lineage, ''), saved)
  const owner = await ownerOf(reply, saved, ownership)
  const look = { key, saved, owner, reply }
  if (reply.status !== 'OK' || (owner !== 'known' && owner !== 'unrecorded')) return look
  if (isCutOff(reply.head.position, saved)) return { ...look, reply: { ...reply, status: 'BEHIND', error: CUT_OFF } }
  if (repairedBy === null || owner !== 'known') return look
  if (!isBeforeRepair(await ownership.numberOf(reply.session), repairedBy)) return look
  return { ...look, reply: { ...reply, status: 'BEHIND', error: BEFORE_REPAIR } }
}

/**
 * The head is saved as a repair leaves it, so any other place of a repair is one of a repair that did not come to its end. Where a request
 * has appended, the head stands as behind an event of WAL. Pure.
 */
export const isCutOff = (found: Position, saved: Position): boolean =>
  saved !== ZERO_POSITION && isRepairPlace(found) && found !== saved

/** Is a head of the session with this number from before the last repair of its stream? `repairedBy`: null: none did. Pure. */
export const isBeforeRepair = (session: number | undefined, repairedBy: number | null): boolean =>
  repairedBy !== null && (session === undefined || session < repairedBy)

/**
 * Has the stream everything that its head says, where the head is behind? That a head is behind hides that the stream is gone, or
 * another one.
 */
export async function hasSoundEnd(
  client: RedisClient,
  { key, reply }: HeadLook,
  ownership: HeadOwnership,
): Promise<boolean> {
  if (!mayHaveSoundEnd(reply)) return false
  return isSoundAlone(await lookAtHead(client, key, ZERO_POSITION, ownership), reply.head.entry)
}

/** `error` of a head that a repair has moved, and of whose events only some may be put back. */
export const CUT_OFF = 'a repair of the stream was cut off'
/** `error` of a head from before the last repair of its stream. */
export const BEFORE_REPAIR = 'the head is from before the last repair of its stream'

async function ownerOf({ head, session }: AppendReply, saved: Position, ownership: HeadOwnership): Promise<HeadOwner> {
  if (session === '' || session === ownership.session) return 'known'
  if (!(await ownership.owns(session))) {
    return ownership.mayBeUnrecorded(session, head.position) ? 'unrecorded' : 'foreign'
  }
  return ownership.chain(head, saved) === undefined ? 'beyond' : 'known'
}

/** The same head, of the same session, as complete or incomplete as before. */
export const isUnmoved = (one: HeadLook, other: HeadLook): boolean =>
  one.owner === other.owner &&
  one.reply.session === other.reply.session &&
  one.reply.status === other.reply.status &&
  one.reply.head.position === other.reply.head.position &&
  one.reply.head.entry === other.reply.head.entry

/** Makes the head this session's, if it still bears the session that was found there: else OTHER, and nothing is written. */
export async function takeOver(
  client: RedisClient,
  key: string,
  saved: Position,
  found: string,
  ownership: HeadOwnership,
): Promise<AppendReply> {
  const reply = await append(client, batchArguments(key, ownership.lineage, ownership.session, found), saved)
  // This session's own, too: an earlier attempt may have been cut off before it was told.
  if (reply.status === 'OK' && found !== '') {
    await ownership.tookOver(key, reply.head, found)
  }
  return reply
}

/** Is the head this session's, and has it reached `expected`? */
export const probeHead = (
  client: RedisClient,
  key: string,
  expected: Position,
  { lineage, session }: Pick<HeadOwnership, 'lineage' | 'session'>,
): Promise<AppendReply> => append(client, batchArguments(key, lineage, session), expected)

/** Looks at the head of a stream that has no saved head, and takes it over where it is this database's. */
export async function openHead(client: RedisClient, key: string, ownership: HeadOwnership): Promise<OpenReply> {
  for (;;) {
    const look = await lookAtHead(client, key, ZERO_POSITION, ownership)
    const { owner, reply } = look
    if (owner === 'beyond') return { ...reply, status: 'BEYOND' }
    if (owner === 'foreign') return { ...reply, status: 'OTHER' }
    if (owner === 'unrecorded') {
      const silent = await ownership.othersAreSilent(client)
      const again = await lookAtHead(client, key, ZERO_POSITION, ownership)
      if (!silent || !isUnmoved(look, again)) return { ...again.reply, status: 'OTHER' }
    }
    if (reply.status !== 'OK') return reply
    const taken = await takeOver(client, key, ZERO_POSITION, reply.session, ownership)
    // Another session of this database may have written in between; each can do so only until it meets this one.
    if (taken.status !== 'OTHER') return taken
  }
}
