import type pg from 'pg'
import { batchesOf } from '../../in-batches.js'
import { loadHeads } from '../../postgres/heads.js'
import { closeAsFoundAgain, type OpenGap, openGaps } from '../../postgres/incidents.js'
import type { Lineage } from '../../postgres/lineage.js'
import { loadAppend } from '../../redis/append.js'
import { closeRedis, type RedisClient } from '../../redis/connect.js'
import { classifyRedisError } from '../../redis/errors.js'
import { haltFor } from '../identity.js'
import { type HeadOwnership, lookAtHead } from './head-ownership.js'

/** Saved heads that are loaded at once. */
const HEADS_AT_ONCE = 100

export interface FoundAgainOptions {
  lineage: Lineage
  ownership: HeadOwnership
  /** To a primary. */
  connect(): Promise<RedisClient>
  /** A gap was closed. */
  found(gap: OpenGap): void
}

/**
 * Looks again at the streams that Redis had lost: an old primary, or a restored one, may have come and gone. Closes each gap
 * whose head is whole, and rejects with a Halt while one is left: nothing is published past an open gap.
 */
export async function closeGapsFoundAgain(postgres: pg.ClientBase, options: FoundAgainOptions): Promise<void> {
  const { lineage } = options
  const gaps = await openGaps(postgres, lineage.lineage)
  if (gaps.length === 0) return
  const whole = await wholeStreams(postgres, gaps, options)
  for (const gap of gaps) {
    if (!whole.has(gap.stream)) continue
    await closeAsFoundAgain(postgres, gap.id)
    options.found(gap)
  }
  const left = gaps.find(({ stream }) => !whole.has(stream))
  if (left) throw await haltFor(postgres, { kind: 'gap', reason: 'stream_behind', detail: {}, ...left })
}

/** Streams whose head in Redis is this database's and has all that is saved. None where Redis cannot be asked. */
async function wholeStreams(
  postgres: pg.ClientBase,
  gaps: readonly OpenGap[],
  { lineage, ownership, connect }: FoundAgainOptions,
): Promise<Set<string>> {
  const whole = new Set<string>()
  let client: RedisClient | undefined
  try {
    client = await connect()
    await loadAppend(client)
    for (const batch of batchesOf(gaps, HEADS_AT_ONCE)) {
      const streams = batch.map(({ stream }) => stream)
      for (const [stream, { position }] of await loadHeads(postgres, lineage.lineage, streams)) {
        const { owner, reply } = await lookAtHead(client, stream, position, ownership)
        if (owner === 'known' && reply.status === 'OK') whole.add(stream)
      }
    }
  } catch (error) {
    // Redis cannot be asked now: the gaps stay open.
    if (classifyRedisError(error).fate !== 'retry') throw error
  } finally {
    if (client) closeRedis(client)
  }
  return whole
}
