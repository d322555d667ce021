import type { Redis } from 'ioredis'
import { headKey } from '../../src/event/names.js'
import { type Position, positionOf, positionPrefix } from '../../src/event/position.js'
import type { RedisClient } from '../../src/redis/client/connect.js'
import { type AppendReply, append, batchArguments } from '../../src/redis/streams/append.js'

/** What goes into a batch: a row's position, its id and the fields of its entry. */
export interface AppendedEvent {
  position: Position
  id: string
  fields: string[]
}

export const LINEAGE = '6f0a2c6e-5b7e-4c7e-9f39-2f6f3a3c1c55'

/** The position of the nth transaction's only row. */
export const at = (n: number): Position => positionOf(positionPrefix(1, BigInt(n)), 0)

export const event = (n: number, id = `e${n}`, fields = ['id', id]): AppendedEvent => ({ position: at(n), id, fields })

/** Events `from` to `to`, both included. */
export const events = (from: number, to: number): AppendedEvent[] =>
  Array.from({ length: to - from + 1 }, (_, i) => event(from + i))

/** A call as the relay makes it; with an `expected` session it may take the head over. */
export interface Call {
  key: string
  lineage?: string
  session: string
  expected?: string
  previous: Position
  events?: AppendedEvent[]
}

export function call(client: RedisClient, { key, session, previous, ...more }: Call): Promise<AppendReply> {
  const args = batchArguments(key, more.lineage ?? LINEAGE, session, more.expected)
  for (const { position, id, fields } of more.events ?? []) {
    const names = fields.filter((_, i) => i % 2 === 0)
    args.push(position, id, names.join('\n'), ...fields.filter((_, i) => i % 2 === 1))
  }
  return append(client, args, previous)
}

/** The ids of the events in a stream, in its order. */
export async function idsIn(client: Redis, key: string): Promise<string[]> {
  const entries = await client.xrange(key, '-', '+')
  return entries.map(([, fields]) => fields[fields.indexOf('id') + 1] as string)
}

/** The stream and the head to the byte; null for what is not there. */
export async function dump(client: Redis, key: string): Promise<(string | null)[]> {
  const values = await Promise.all([key, headKey(key, LINEAGE)].map((name) => client.dumpBuffer(name)))
  return values.map((value) => value?.toString('hex') ?? null)
}
