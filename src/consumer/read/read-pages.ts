import type { RedisClient } from '../../redis/client/connect.js'
import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import { type StreamEntry, streamEntryOf } from '../../redis/streams/group-replies.js'
import type { Readable, ReadSizes } from './read-size.js'

export interface PagesParts {
  sizes: ReadSizes
  /** Of the payloads of all pages; one page may have more. */
  maxBytes: number
  /** Takes the entries of a stream over. */
  receive(group: ConsumerGroup, entries: readonly StreamEntry[]): void
  /** Whether another page may be read. */
  mayRead(): boolean
}

/**
 * Reads new entries of these streams with XREADGROUP, page by page: until there are no more, or as many as may be read, or until the
 * entries of a page were so large that the next read has to be bounded in bytes. Entries are handed over as soon as they fill a batch, so
 * that none is begun with a page. `block`: how long the first page waits for something new, in milliseconds; undefined: not at all. Whether
 * anything was found.
 */
export async function readPages(
  client: RedisClient,
  readable: readonly Readable[],
  block: number | undefined,
  { sizes, maxBytes, receive, mayRead }: PagesParts,
): Promise<boolean> {
  const collected = new Map<ConsumerGroup, StreamEntry[]>()
  let found = false
  let [left, wait, bytes] = [readable, block, 0]
  try {
    do {
      const page = sizes.pageOf(left, maxBytes - bytes)
      if (bytes > 0 && sizes.needBound(left, page)) break
      const reply = new Map(await readGroup(client, left, page, wait))
      const more: Readable[] = []
      found ||= reply.size > 0
      for (const readable of left) {
        const { group, count, batch } = readable
        const entries = (reply.get(group.key) ?? []).map(streamEntryOf)
        const hasMore = entries.length >= page
        bytes += sizes.of(group).note(entries, hasMore)
        const before = collected.get(group)
        const all = before ? before.concat(entries) : entries
        const rest = all.length % batch
        if (all.length > rest) receive(group, rest === 0 ? all : all.slice(0, all.length - rest))
        collected.set(group, rest === 0 ? [] : all.slice(all.length - rest))
        // For a small rest a command would cost as much as for a page: the next read has it, unless a batch lacks it.
        const lacking = count - page
        if (hasMore && lacking > 0 && (batch > 1 || lacking >= page / 2)) more.push({ ...readable, count: lacking })
      }
      left = more
      wait = undefined
    } while (left.length > 0 && mayRead())
  } finally {
    // Also where a page has failed: they are pending with this consumer.
    for (const [group, entries] of collected) if (entries.length > 0) receive(group, entries)
  }
  return found
}

type Reply = [key: string, entries: Parameters<typeof streamEntryOf>[0][]][]

async function readGroup(
  client: RedisClient,
  readable: readonly Readable[],
  count: number,
  block: number | undefined,
): Promise<Reply> {
  const [{ group: first }] = readable as [Readable]
  const args: [string, ...string[]] = ['GROUP', first.group, first.consumer, 'COUNT', String(count)]
  if (block !== undefined) args.push('BLOCK', String(block))
  args.push('STREAMS', ...readable.map(({ group }) => group.key), ...readable.map(() => '>'))
  return ((await client.call('XREADGROUP', ...args)) ?? []) as Reply
}
