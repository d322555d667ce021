import { describe, expect, test as plain } from 'vitest'
import { retriesKey } from '../../src/event/names.js'
import { Group } from '../../src/redis/group.js'
import { redisVersion, startRedis, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { createGroupEnv, type GroupEnv } from './group-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf } from './watch.js'

/** Reads so many of what is new; it is done with them at once. */
async function read({ redis, key }: GroupEnv, n: number): Promise<void> {
  const reply = await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', n, 'STREAMS', key, '>')
  await redis.xack(key, GROUP, ...(reply?.[0]?.[1] ?? []).map(([id]) => id))
}

// Redis 7.0 counts deliveries, the others correct their counter; Valkey reports another lag.
describe.each(['7.0', '8.10', 'valkey-9.1'] as const)('entries that were trimmed unread, on %s', (version) => {
  plain('are counted once each, by whichever worker looks', async ({ skip, onTestFinished }) => {
    const redis = await startRedis({ version: await redisVersion({ skip }, version) })
    onTestFinished(() => redis.remove())
    const client = redis.client()
    onTestFinished(() => client.disconnect())
    const env = await createGroupEnv(client, 'things')
    const { one, two, append } = env
    const lost = async () => (await two.unreadTrimmed(client))?.lost
    const trim = (length: number) => client.xtrim('things', 'MAXLEN', length)
    const [first] = await append(1)
    await read(env, 1)
    await append(10)
    expect(await lost()).toBeUndefined()
    await trim(8)
    expect(await one.unreadTrimmed(client)).toEqual({
      ...{ lost: 2, lastDelivered: first, entriesRead: 1, entriesAdded: 11, length: 8 },
    })
    expect(await lost()).toBeUndefined()
    await read(env, 3)
    // Trimming of what was read is not a loss.
    await trim(5)
    expect(await lost()).toBeUndefined()
    await trim(1)
    expect(await lost()).toBe(4)
    await read(env, 1)
    await append(10)
    await trim(0)
    expect(await lost()).toBe(10)
    await append(4)
    await trim(2)
    expect(await lost()).toBe(2)
    await read(env, 2)
    await trim(0)
    expect(await lost()).toBeUndefined()
  })
})

// Redis 7 does not know the position of a group before its first read.
describe.each(['8.10', 'valkey-9.1'] as const)('on %s, entries that were trimmed', (version) => {
  plain(
    'before the group was created are not lost to it, and those after that are',
    async ({ skip, onTestFinished }) => {
      const redis = await startRedis({ version: await redisVersion({ skip }, version) })
      onTestFinished(() => redis.remove())
      const client = redis.client()
      onTestFinished(() => client.disconnect())
      for (let n = 0; n < 10; n++) await client.xadd('things', '*', 'a', 'b')
      await client.xtrim('things', 'MAXLEN', 4)
      for (const from of ['0', '$']) {
        const group = new Group('things', `from ${from}`, 'one')
        await group.create(client, from)
        expect(await group.unreadTrimmed(client)).toBeUndefined()
      }
      await client.xadd('things', '*', 'a', 'b')
      await client.xtrim('things', 'MAXLEN', 0)
      const lost = async (from: string) =>
        (await new Group('things', `from ${from}`, 'one').unreadTrimmed(client))?.lost
      expect([await lost('0'), await lost('$')]).toEqual([5, 1])
    },
  )
})

test('a worker that is behind a trimmed stream says how many entries its group has lost', async ({ env }) => {
  const gate = new Gate()
  const consumer = env.consumer({ concurrency: 1, prefetch: 1 }).on(Happened, async (event, context) => {
    await gate.passed(context.signal)
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', [{ n: 0 }])
  await until(async () => (await consumer.stats()).running === 1)
  await env.append(
    'things',
    Array.from({ length: 99 }, (_, n) => ({ n: n + 1 })),
  )
  await env.redis.xtrim('things', 'MAXLEN', 10)
  gate.open()
  await until(async () => (await env.effects()).length === 11)
  const lost = await metricOf(consumer, 'unread_trimmed_total', { stream: 'things' })
  const held = (await env.effects()).length
  expect(lost + held).toBe(100)
  const [line] = env.logs.filter(({ lost }) => lost !== undefined)
  expect(line).toMatchObject({ level: 'error', stream: 'things', lost: 89, entriesAdded: 100, length: 10 })
  expect(await env.redis.hkeys(retriesKey('things', GROUP))).toEqual(['unread'])
})

test('what went with a removed consumer is done once when the group is set back', async ({ env }) => {
  await leaveBehind(env.redis, 'things', [{ n: 0 }, { n: 1 }])
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 2 }])
  await until(async () => (await env.effects()).length === 1)
  expect(await env.redis.xgroup('DELCONSUMER', 'things', GROUP, 'ghost')).toBe(2)
  await env.redis.xgroup('SETID', 'things', GROUP, '0')
  await env.drained('things', 3)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([0, 1, 2])
})

plain('a counter that Redis 7 lost in a restart is not taken for a loss', async ({ skip, onTestFinished }) => {
  const version = await redisVersion({ skip }, '7.0')
  const redis = await startRedis({ version, settings: { appendonly: 'yes', appendfsync: 'always' } })
  onTestFinished(() => redis.remove())
  const before = redis.client()
  const env = await createGroupEnv(before, 'things')
  await env.append(5)
  await read(env, 1)
  // With the counter; the deliveries that follow are in the AOF without it.
  await before.bgrewriteaof()
  await until(async () => (await before.info('persistence')).includes('aof_rewrite_in_progress:0'))
  await read(env, 4)
  before.disconnect()
  await redis.kill()
  await redis.start()
  const client = redis.client()
  onTestFinished(() => client.disconnect())
  const lost = async () => (await env.one.unreadTrimmed(client))?.lost
  expect(await env.one.state(client)).toMatchObject({ lag: 4 })
  expect(await lost()).toBeUndefined()
  await client.xtrim('things', 'MAXLEN', 0)
  await client.xadd('things', '*', 'a', 'b')
  expect(await lost()).toBeUndefined()
  await client.xtrim('things', 'MAXLEN', 0)
  await client.xadd('things', '*', 'a', 'b')
  expect(await lost()).toBe(1)
})
