import type { Redis } from 'ioredis'
import type pg from 'pg'
import type { Seen } from './differences.js'

/** What the slot had confirmed at one instant, and how long each stream was right after it. */
export interface Sample {
  confirmed: bigint
  lengths: Record<string, number>
}

/** An event that was confirmed to Postgres before it was in its stream. */
export interface EarlyConfirm {
  stream: string
  id: string
  sequence: string
  confirmed: string
}

export async function sampleConfirmed(
  postgres: pg.ClientBase,
  slot: string,
  redis: Redis,
  streams: string[],
): Promise<Sample> {
  const { rows } = await postgres.query(
    `select (confirmed_flush_lsn - '0/0')::text as lsn from pg_replication_slots where slot_name = $1`,
    [slot],
  )
  const lengths = await Promise.all(streams.map(async (stream) => [stream, await redis.xlen(stream)] as const))
  return { confirmed: BigInt(rows[0].lsn), lengths: Object.fromEntries(lengths) }
}

/** Holds the samples against what the streams hold in the end. Streams only grow: an entry's place tells when it came. */
export function findEarlyConfirms(samples: Sample[], seen: Seen[]): EarlyConfirm[] {
  const early: EarlyConfirm[] = []
  const places = new Map<string, number>()
  for (const { stream, id, sequence } of seen) {
    const place = places.get(stream) ?? 0
    places.set(stream, place + 1)
    const commit = BigInt(`0x${sequence.slice(9, 25)}`)
    const found = samples.find(({ confirmed, lengths }) => commit < confirmed && place >= (lengths[stream] ?? 0))
    if (found) early.push({ stream, id, sequence, confirmed: found.confirmed.toString(16) })
  }
  return early
}
