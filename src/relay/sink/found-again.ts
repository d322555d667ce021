import type pg from 'pg'
import { batchesOf } from '../../base/in-batches.js'
import { type GapStream, lostStreams, removeFoundAgain } from '../../postgres/state/gaps.js'
import { loadHeads } from '../../postgres/state/heads.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { loadRepair, type Repair } from '../../postgres/state/repairs.js'
import { closeRedis, type RedisClient } from '../../redis/client/connect.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import { loadAppend } from '../../redis/streams/append.js'
import { type HeadLook, type HeadOwnership, lookAtHead } from './head-ownership.js'

/** Heads that are looked at at once. */
const HEADS_AT_ONCE = 100

export interface FoundAgainOptions {
  lineage: Lineage
  ownership: HeadOwnership
  /** To a primary. */
  connect(): Promise<RedisClient>
  /** Streams of a gap are whole; `isClosed`: all of them were. */
  found(incident: string, streams: readonly string[], isClosed: boolean): void
}

/**
 * Looks again at the streams that Redis had lost: an old primary, or a restored one, may have come and gone. Takes each stream
 * whose head is whole out of its gap, and closes a gap without streams.
 */
export async function removeStreamsFoundAgain(postgres: pg.ClientBase, options: FoundAgainOptions): Promise<void> {
  const { lineage, connect, found } = options
  if (!mayBeFoundAgain(await loadRepair(postgres, lineage.lineage))) return
  let client: RedisClient | undefined
  try {
    for await (const page of lostStreams(postgres, lineage.lineage, 'stream_behind')) {
      client ??= await connect()
      await loadAppend(client)
      const whole = await wholeStreams(postgres, client, page, options)
      for (const [incident, streams] of byIncident(whole)) {
        found(incident, streams, await removeFoundAgain(postgres, incident, streams))
      }
    }
  } catch (error) {
    // Redis cannot be asked now: the gaps stay open.
    if (classifyRedisError(error).policy !== 'retry') throw error
  } finally {
    if (client) closeRedis(client)
  }
}

/** Once a repair has begun to append, a whole head says nothing: of what is missing some may never have been in the stream. Pure. */
export const mayBeFoundAgain = (repair: Pick<Repair, 'attempts'> | undefined): boolean => !repair?.attempts

export const isFoundAgain = ({ owner, reply }: Pick<HeadLook, 'owner' | 'reply'>): boolean =>
  owner === 'known' && reply.status === 'OK'

type LostStream = GapStream & { incident: string }

/** Streams whose head in Redis is this database's and has all that is saved. */
async function wholeStreams(
  postgres: pg.ClientBase,
  client: RedisClient,
  streams: readonly LostStream[],
  { lineage, ownership }: FoundAgainOptions,
): Promise<LostStream[]> {
  const whole: LostStream[] = []
  for (const batch of batchesOf(streams, HEADS_AT_ONCE)) {
    const saved = await loadHeads(
      postgres,
      lineage.lineage,
      batch.map(({ key }) => key),
    )
    const looks = await Promise.all(
      batch.map(async (stream) => {
        const head = saved.get(stream.key)
        if (head === undefined) return undefined
        return isFoundAgain(await lookAtHead(client, stream.key, head.position, ownership, head.repairedBy))
          ? stream
          : undefined
      }),
    )
    whole.push(...looks.filter((stream) => stream !== undefined))
  }
  return whole
}

function byIncident(streams: readonly LostStream[]): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const { incident, key } of streams) found.set(incident, [...(found.get(incident) ?? []), key])
  return found
}
