import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, metricOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

test('a group that is missing begins at the first entry, and a stream that is missing is made', async ({ env }) => {
  await env.append('things', numbers(10))
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  await env.drained('things', 10)
  const other = env.consumer({ group: 'shipping' }).on({ ...Happened, stream: 'not-there' }, effect)
  await other.start()
  expect(await env.redis.xinfo('GROUPS', 'not-there')).toHaveLength(1)
  await env.append('not-there', numbers(10, 10))
  await until(async () => (await env.effects()).length === 20)
})

test('a group that is deleted in mid-run comes back at the first entry, and nothing is done twice', async ({ env }) => {
  const consumer = env.consumer({ startFrom: 'now' }).on(Happened, effect)
  await consumer.start()
  await env.append('things', numbers(30))
  await env.drained('things', 30)
  await env.redis.xgroup('DESTROY', 'things', GROUP)
  // Before anybody has made the group again, so that one at the end of the stream would miss them.
  await env.append('things', numbers(30, 30))
  await env.drained('things', 60)
  expect(new Set((await env.effects()).map(({ event }) => event)).size).toBe(60)
  expect(await env.effects()).toHaveLength(60)
  expect(await metricOf(consumer, 'duplicates_total')).toBe(30)
  await until(() => env.logs.some(({ msg }) => msg.includes('the group was missing')))
})

test('a stream that is deleted in mid-run is read again from its first entry', async ({ env }) => {
  const consumer = env.consumer({ startFrom: 'now' }).on(Happened, effect)
  await consumer.start()
  await env.append('things', numbers(10))
  await env.drained('things', 10)
  const pipeline = env.redis.multi().del('things')
  await pipeline.exec()
  await env.append('things', numbers(10, 10))
  await env.drained('things', 20)
  expect(await env.effects()).toHaveLength(20)
  expect(JSON.stringify(env.logs)).not.toContain('redis_failover')
})

test('a Redis that was put back to an earlier state brings no effect a second time', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const server = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
  const env = await createEnv({ redis: server })
  await env.append('things', numbers(200))
  const half = new Gate()
  const consumer = env.consumer({ concurrency: 4, prefetch: 20 }).on(Happened, async (event, context) => {
    // Some are pending and some are not, when the snapshot is taken.
    if (event.data.n >= 100) await half.passed(context.signal)
    await effect(event, context)
  })
  await consumer.start()
  await until(async () => (await env.effects()).length === 100)
  // The first hundred are acknowledged by now.
  await until(async () => (await env.pending('things')) <= 20)
  const before = await server.cloneData()
  half.open()
  await env.drained('things', 200)
  await server.restore(before)
  const lag = async () => ((await consumer.stats()).streams[0] as { lag: number; pending: number }) ?? {}
  await until(async () => (await lag()).lag === 0 && (await env.pending('things')) === 0)
  expect(await metricOf(consumer, 'duplicates_total')).toBeGreaterThanOrEqual(100)
  expect(await env.effects()).toHaveLength(200)
})

test('a Redis that is killed and started again in mid-run costs no event and no second effect', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const server = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
  const env = await createEnv({ redis: server })
  const ids = await env.append('things', numbers(2_000))
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  await until(async () => (await env.effects()).length > 200)
  await server.kill()
  expect((await env.effects()).length).toBeLessThan(2_000)
  await server.start()
  await env.drained('things', 2_000)
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual(ids.sort())
  await until(() => env.logs.some(({ msg }) => msg === 'connected to Redis again'))
})

test('an event that waits for its next attempt while the group is lost and made again is not run twice as often', async ({
  env,
}) => {
  const attempts: number[] = []
  const consumer = env.consumer({ backoff: () => 1_500, maxAttempts: 3 }).on(Happened, (_, { attempt }) => {
    attempts.push(attempt)
    throw new Error('never')
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await until(() => attempts.length === 1)
  await env.redis.xgroup('DESTROY', 'things', GROUP)
  await until(async () => (await env.dead('things')).length === 1)
  await until(async () => (await consumer.stats()).waiting === 0)
  await until(() => env.logs.some(({ msg }) => msg.includes('the group was missing')))
  expect(attempts).toEqual([1, 2, 3])
  expect(await env.pending('things')).toBe(0)
})
