import { isRepairPlace, parsePosition, ZERO_POSITION } from '../../event/position.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import type { AppendReply } from '../../redis/streams/append.js'

/** Is the head behind, and nothing known of its stream yet? With an `error`, the stream is not the one that it was written beside. Pure. */
export const mayHaveSoundEnd = ({ status, error, head }: AppendReply): boolean =>
  status === 'BEHIND' && error === '' && head.position !== ZERO_POSITION

/** Is the stream the one that its head was written beside? `alone`: a look that expects nothing of the head. Pure. */
export const isSoundAlone = ({ owner, reply }: { owner: string; reply: AppendReply }, entry: string): boolean =>
  owner === 'known' && reply.status === 'OK' && reply.head.entry === entry

/**
 * The LSN of a head that is behind, if its stream has a sound end: all of it that was committed before is there. Only an event of WAL
 * says so: what a repair put into the stream was committed before its position, and may have been lost behind the head. Pure.
 */
export function endOfLost(reply: AppendReply, timeline: number): Lsn | null {
  if (!mayHaveSoundEnd(reply) || isRepairPlace(reply.head.position)) return null
  const position = parsePosition(reply.head.position)
  return position.timeline === timeline ? position.lsn : null
}
