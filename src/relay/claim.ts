import type pg from 'pg'
import { type Position, parsePosition, ZERO_POSITION } from '../event/position.js'
import { countLost } from '../postgres/extent.js'
import type { Head } from '../postgres/heads.js'
import { openIncident } from '../postgres/incidents.js'
import type { Lineage } from '../postgres/lineage.js'
import { formatLsn, type Lsn } from '../postgres/lsn.js'
import type { TimelineHistory } from '../postgres/timeline.js'
import type { RedisClient } from '../redis/connect.js'
import { classifyRedis } from '../redis/errors.js'
import { Halt } from './halt.js'
import { foreign, gap } from './identity.js'
import type { Lane } from './lane.js'
import type { Ledger } from './ledger.js'
import type { Claim, Publisher } from './publisher.js'

/** Streams claimed at once. */
const AT_ONCE = 100

/**
 * Takes over the heads of all streams that the lineage has published to, and finds what Redis has lost: a head behind
 * its saved head, a stream that ends before it, or is gone. Every gap is recorded before the first is thrown.
 * Each use of Postgres is a turn of its own: a claim of the publisher asks the ledger, and would wait for one around it.
 */
export async function claimHeads(
  redis: RedisClient,
  ledger: Ledger,
  publisher: Publisher,
  lineage: Lineage,
  saved: ReadonlyMap<string, Head>,
  server: ServerWal,
): Promise<void> {
  let halt: Halt | undefined
  const streams = [...saved]
  for (let from = 0; from < streams.length; from += AT_ONCE) {
    const replies = await Promise.all(
      streams.slice(from, from + AT_ONCE).map(async ([key, head]) => {
        const lane = publisher.lane(key)
        return { lane, head, reply: await publisher.claim(redis, lane, head.position) }
      }),
    )
    for (const { lane, head, reply } of replies) {
      const found = await ledger.inTurn((postgres) => judge(postgres, lineage, lane, head, reply, server))
      if (found) halt ??= found
      else publisher.open(lane, reply.head, chainStart(reply.head, head.position, server) as Position)
    }
  }
  if (halt?.reason === 'stream_behind') await ledger.inTurn((postgres) => countLost(postgres, lineage))
  if (halt) throw halt
}

/** What keeps a claimed head from being used; undefined when it is as it should be. */
async function judge(
  postgres: pg.ClientBase,
  lineage: Lineage,
  lane: Lane,
  saved: Head,
  reply: Claim,
  server: ServerWal,
): Promise<Halt | undefined> {
  const detail = { expected: saved, found: reply.head, ...(reply.error && { message: reply.error }) }
  // With a message, the head is there and the stream is not.
  const lost = { ...detail, after: reply.error ? null : timeOf(reply.head), until: timeOf(saved) }
  if (reply.status === 'ERROR') {
    const verdict = classifyRedis(reply.error)
    if (verdict.fate === 'stream') return gap(postgres, lineage, 'stream_behind', lost, lane.key)
    throw verdict.fate === 'halt' ? new Halt(verdict.reason, unknown(reply.error)) : new Error(reply.error)
  }
  if (reply.status === 'OTHER') {
    return foreign(postgres, lineage, 'session_unknown', { ...detail, session: reply.session }, lane.key)
  }
  if (reply.status === 'BEYOND') {
    return foreign(postgres, lineage, 'wal_beyond', { ...detail, server: describe(server) }, lane.key)
  }
  if (reply.status !== 'OK') return gap(postgres, lineage, 'stream_behind', lost, lane.key)
  if (isPhantom(reply.head.position, server)) {
    await openIncident(postgres, {
      lineage: lineage.lineage,
      kind: 'operator',
      reason: 'possible_phantoms',
      stream: lane.key,
      position: reply.head.position,
      eventId: reply.head.event,
      detail: { ...detail, server: describe(server) },
    })
  }
  return undefined
}

/** When the head's event was appended, by the clock of Redis; null where there is none. */
const timeOf = ({ entry }: Head): string | null => {
  const time = Number(entry.split('-', 1)[0])
  return time === 0 ? null : new Date(time).toISOString()
}

/** What the server's WAL is, at the start of a session. */
export interface ServerWal {
  history: TimelineHistory
  /** The end of what is written. */
  lsn: Lsn
  /** What the slot was last told, as Postgres has saved it. */
  confirmed: Lsn
}

export const describe = ({ history, lsn }: ServerWal) => ({ timeline: history.current, lsn: formatLsn(lsn) })

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
  return lsn < server.confirmed || isPhantom(head.position, server) ? head.position : saved
}

/** An event of an older timeline, from beyond the point where this server left it: this server never had its commit. */
export function isPhantom(position: Position, { history }: ServerWal): boolean {
  const { timeline, lsn } = parsePosition(position)
  const left = history.switches.find((each) => each.timeline === timeline)
  return left !== undefined && lsn >= left.until
}

export const unknown = (message: string): string =>
  `Redis answered in a way that Outrider does not know: "${message}". Nothing is published until it is gone. ` +
  'Look it up in the documentation of your Redis, and please report it.'
