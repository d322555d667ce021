import type { Redis } from 'ioredis'
import { type PerGroup, perGroup } from './groups.js'
import { STREAMS } from './webhooks.js'

/** How many entries the streams hold. */
export async function countEntries(redis: Redis): Promise<number> {
  const lengths = await Promise.all(STREAMS.map((stream) => redis.xlen(stream)))
  return lengths.reduce((sum, length) => sum + length, 0)
}

/** How many of them each group has acknowledged, and how many it has read and not acknowledged. */
export async function countDone(redis: Redis): Promise<PerGroup<{ done: number; pending: number }>> {
  const counts = perGroup(() => ({ done: 0, pending: 0 }))
  const replies = await Promise.all(STREAMS.map((stream) => redis.xinfo('GROUPS', stream)))
  for (const info of replies.flat() as unknown[][]) {
    const at = (name: string) => info[info.indexOf(name) + 1]
    const count = counts[at('name') as keyof typeof counts]
    const pending = Number(at('pending'))
    count.pending += pending
    // Null before the first is read.
    count.done += Number(at('entries-read') ?? 0) - pending
  }
  return counts
}
