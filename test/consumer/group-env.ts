import type { Redis as Client } from 'ioredis'
import { test } from 'vitest'
import { retriesKey } from '../../src/event/names.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import type { Moved } from '../../src/redis/streams/group-replies.js'
import { type FreshRedis, freshRedis } from '../../testkit/services/index.js'
import { GROUP } from './happened.js'

/** A stream in Redis, and a group of it with two consumers. */
export interface GroupEnv {
  redis: Client
  key: string
  one: ConsumerGroup
  two: ConsumerGroup
  /** Appends so many entries; their ids. */
  append(n: number): Promise<string[]>
  /** Entries that this consumer was given; their ids. */
  given(group: ConsumerGroup, n: number): Promise<string[]>
  /** As if the consumer had given no sign of life for them for so long. */
  idle(group: ConsumerGroup, milliseconds: number, ...ids: string[]): Promise<unknown>
  /** XPENDING: id, consumer and deliveries. */
  pending(): Promise<[id: string, consumer: string, deliveries: number][]>
  /** What is remembered of failed attempts, by id. */
  retries(): Promise<Record<string, string>>
}

export async function createGroupEnv(redis: Client, key: string): Promise<GroupEnv> {
  const one = new ConsumerGroup(key, GROUP, 'one')
  const two = new ConsumerGroup(key, GROUP, 'two')
  await one.create(redis, '0')
  const env: GroupEnv = {
    ...{ redis, key, one, two },
    async append(n) {
      const ids: string[] = []
      for (let i = 0; i < n; i++) ids.push((await redis.xadd(key, '*', 'id', String(i))) as string)
      return ids
    },
    async given(group, n) {
      await env.append(n)
      const reply = await redis.xreadgroup('GROUP', GROUP, group.consumer, 'COUNT', n, 'STREAMS', key, '>')
      return (reply as [string, [string, string[]][]][])[0]![1].map(([id]) => id)
    },
    idle: (group, milliseconds, ...ids) =>
      redis.xclaim(key, GROUP, group.consumer, 0, ...ids, 'IDLE', milliseconds, 'JUSTID'),
    async pending() {
      const reply = (await redis.xpending(key, GROUP, '-', '+', 1000)) as [string, string, number, number][]
      return reply.map(([id, consumer, , deliveries]) => [id, consumer, deliveries])
    },
    async retries() {
      const { moved: _, ...retries } = await redis.hgetall(retriesKey(key, GROUP))
      return retries
    },
  }
  return env
}

/** Sets one entry aside until then; whether it is. */
export async function setAside(
  group: ConsumerGroup,
  redis: Client,
  entry: { id: string; fields: readonly string[] | undefined },
  due: number,
  said: readonly string[],
): Promise<Moved | undefined> {
  const [moved] = await group.setAside(redis, [{ ...entry, due, said }])
  return moved
}

let count = 0

/** A stream for each test, in one Redis for all tests of a file. */
export const groupTest = test.extend<{ $file: { server: FreshRedis; redis: Client }; $test: { env: GroupEnv } }>({
  server: [
    // biome-ignore lint/correctness/noEmptyPattern: Vitest needs the pattern to see which fixtures are needed.
    async ({}, use) => {
      const server = await freshRedis()
      await use(server)
      await server.remove()
    },
    { scope: 'file' },
  ],
  redis: [
    async ({ server }, use) => {
      const redis = server.client()
      await use(redis)
      redis.disconnect()
    },
    { scope: 'file' },
  ],
  env: async ({ redis }, use) => use(await createGroupEnv(redis, `things-${++count}`)),
})
