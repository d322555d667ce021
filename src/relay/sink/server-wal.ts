import type { Head } from '../../event/head.js'
import { isPlace, type Position, parsePosition, ZERO_POSITION } from '../../event/position.js'
import { formatLsn, type Lsn } from '../../postgres/client/lsn.js'
import type { TimelineHistory } from '../../postgres/replication/timeline.js'
import { openIncident } from '../../postgres/state/incidents.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { StateStore } from '../confirm/state-store.js'

/** What the server's WAL is, at the start of a session. */
export interface ServerWal {
  history: TimelineHistory
  /** The end of what is written. */
  lsn: Lsn
  /** What the slot was last told, as Postgres has saved it. */
  confirmed: Lsn
}

export const describeServerWal = ({ history, lsn }: ServerWal) => ({ timeline: history.current, lsn: formatLsn(lsn) })

/**
 * Where the chain begins at a head that an earlier session left. What lies at or past the confirmed LSN comes again, so
 * the replay from the saved head must meet the head's event; what lies before it does not come again, nor what was
 * published from WAL that a promoted standby never had: then the chain begins at the head.
 * Undefined when this server cannot have written the head. Pure.
 */
export function chainStart(head: Head, saved: Position, server: ServerWal): Position | undefined {
  if (head.position === ZERO_POSITION) return saved
  const { timeline, lsn } = parsePosition(head.position)
  if (timeline > server.history.current || (timeline === server.history.current && lsn >= server.lsn)) return undefined
  // No row of WAL lies at it. What comes again lies above the place of a repair; what lies below that of a request is in the stream.
  if (isPlace(head.position)) return head.position
  return lsn < server.confirmed || isPhantom(head.position, server) ? head.position : saved
}

/** An event of an older timeline, from beyond the point where this server left it: this server never had its commit. */
export function isPhantom(position: Position, { history }: ServerWal): boolean {
  const { timeline, lsn } = parsePosition(position)
  const left = history.switches.find((each) => each.timeline === timeline)
  return left !== undefined && lsn >= left.until
}

/** An event of a timeline that this server has left, from before or beyond that point. */
export function isOfOlderTimeline(position: Position, { history }: ServerWal): boolean {
  const { timeline } = parsePosition(position)
  return history.switches.some((each) => each.timeline === timeline)
}

/** Says, once for each such head, that events may have been published which this server never had. */
export async function recordPhantom(
  stateStore: StateStore,
  lineage: Lineage,
  server: ServerWal,
  key: string,
  head: Head,
  session: string,
): Promise<void> {
  if (!isPhantom(head.position, server)) return
  await stateStore.inTurn((postgres) =>
    openIncident(postgres, {
      ...{ lineage: lineage.lineage, kind: 'operator', reason: 'possible_phantoms', stream: key },
      ...{ position: head.position, eventId: head.event },
      detail: { found: head, session, server: describeServerWal(server) },
    }),
  )
}

export const unknownRedisError = (message: string): string =>
  `Redis answered in a way that Outrider does not know: "${message}". Nothing is published until it is gone. ` +
  'Look it up in the documentation of your Redis, and please report it.'
