import { describe, expect, test as plain } from 'vitest'
import { UnreadWatch } from '../../src/consumer/read/unread-watch.js'
import { retriesKey } from '../../src/event/names.js'
import { defineEvent } from '../../src/index.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { redisVersion, startRedis, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { createGroupEnv, type GroupEnv, groupTest } from './group-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf, pendingOf } from './watch.js'

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
        const group = new ConsumerGroup('things', `from ${from}`, 'one')
        await group.create(client, from)
        expect(await group.unreadTrimmed(client)).toBeUndefined()
      }
      await client.xadd('things', '*', 'a', 'b')
      await client.xtrim('things', 'MAXLEN', 0)
      const lost = async (from: string) =>
        (await new ConsumerGroup('things', `from ${from}`, 'one').unreadTrimmed(client))?.lost
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

// Redis 7.0 keeps the difference in its counter, so any later look would find it.
describe.each(['8.10', 'valkey-9.1'] as const)('on %s, a stream that is full beside one with room', (version) => {
  test('is looked at before it is read again', async ({ createEnv, skip }) => {
    const env = await createEnv({ redis: await startRedis({ version: await redisVersion({ skip }, version) }) })
    const gate = new Gate()
    const Other = defineEvent({ ...Happened, stream: 'others', type: 'other.happened' })
    const consumer = env
      .consumer()
      .on(
        Happened,
        async (event, context) => {
          await gate.passed(context.signal)
          await effect(event, context)
        },
        { concurrency: 1 },
      )
      .on(Other, effect)
    await consumer.start()
    await env.append('things', [{ n: 0 }])
    await until(async () => (await consumer.stats()).running === 1)
    await env.append(
      'things',
      Array.from({ length: 99 }, (_, n) => ({ n: n + 1 })),
    )
    await env.append('others', [{ n: -1 }], { type: Other.type })
    await until(async () => (await env.effects()).length === 1)
    await env.redis.xtrim('things', 'MAXLEN', 10)
    gate.open()
    await until(async () => (await env.effects()).length === 12)
    expect(await metricOf(consumer, 'unread_trimmed_total', { stream: 'things' })).toBe(89)
  })
})

// As above: from Redis 8 the next delivery corrects the counter.
test('a stream that is not read past a busy handler is looked at before it is read again', async ({
  createEnv,
  skip,
}) => {
  const env = await createEnv({ redis: await startRedis({ version: await redisVersion({ skip }, '8.10') }) })
  const gate = new Gate()
  const consumer = env
    .consumer()
    .on(
      Happened,
      async (event, context) => {
        await gate.passed(context.signal)
        await effect(event, context)
      },
      { concurrency: 1 },
    )
    .on(defineEvent({ ...Happened, type: 'thing.other' }), effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }])
  await until(async () => (await consumer.stats()).running === 1)
  await env.append(
    'things',
    Array.from({ length: 99 }, (_, n) => ({ n: n + 1 })),
  )
  await env.redis.xtrim('things', 'MAXLEN', 10)
  gate.open()
  await until(async () => (await env.effects()).some(({ n }) => n === 99))
  await env.drained('things', 11)
  const lost = await metricOf(consumer, 'unread_trimmed_total', { stream: 'things' })
  expect(lost + (await env.effects()).length).toBe(100)
})

groupTest('a stream for which Redis does not permit to look keeps no other from being looked at', async ({ env }) => {
  const { redis, key, one } = env
  const other = new ConsumerGroup(`${key}-other`, GROUP, 'one')
  await other.create(redis, '0')
  for (const of of [one, other]) {
    await redis.xadd(of.key, '*', 'a', 'b')
    expect((await of.readNew(redis, 1, 1_000)).fresh).toHaveLength(1)
    for (let n = 0; n < 2; n++) await redis.xadd(of.key, '*', 'a', 'b')
    await redis.xtrim(of.key, 'MAXLEN', 1)
  }
  const keys = [`~${key}`, `~${retriesKey(key, GROUP)}`]
  await redis.call('ACL', 'SETUSER', 'worker', 'reset', 'on', '>secret', ...keys, '+@all')
  const client = redis.duplicate({ username: 'worker', password: 'secret' })
  const found: [string, number][] = []
  const warned: unknown[] = []
  const log = { debug() {}, info() {}, error() {}, warn: (line: unknown) => warned.push(line) }
  const watch = new UnreadWatch({ unreadTrimmed: (stream, lost) => void found.push([stream, lost]) }, log)
  for (let time = 0; time < 2; time++) await watch.look(client, [other])
  await watch.look(client, [one])
  expect(found).toEqual([[key, 1]])
  expect(warned).toMatchObject([{ stream: other.key }])
  client.disconnect()
})

test('a consumer that was removed with entries pending is reported once', async ({ env }) => {
  await leaveBehind(env.redis, 'things', [{ n: 0 }, { n: 1 }])
  await until(async () => ((await pendingOf(env.redis, 'things'))[0]?.idle ?? 0) > 200)
  const gate = new Gate()
  // It takes over one entry at most, and then has no room for the other.
  const consumer = env
    .consumer({ claimAfter: '100ms', concurrency: 1, prefetch: 1 })
    .on(Happened, async (event, context) => {
      await gate.passed(context.signal)
      await effect(event, context)
    })
  await consumer.start()
  // The worker has looked at the consumers of the group.
  await until(async () => (await env.redis.info('commandstats')).includes('cmdstat_xinfo|consumers'))
  await env.redis.xgroup('DELCONSUMER', 'things', GROUP, 'ghost')
  await until(async () => (await metricOf(consumer, 'removed_pending_total', { stream: 'things' })) > 0)
  const lines = env.logs.filter(({ removed }) => removed !== undefined)
  expect(lines).toMatchObject([
    {
      ...{ level: 'error', stream: 'things', removed: 'ghost' },
      pending: await metricOf(consumer, 'removed_pending_total', { stream: 'things' }),
      msg: expect.stringContaining('a consumer was removed from the group with entries pending (XGROUP DELCONSUMER)'),
    },
  ])
  gate.open()
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
