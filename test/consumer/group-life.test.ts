import { describe, expect } from 'vitest'
import { isMissingGroup } from '../../src/consumer/redis/reconnecting-client.js'
import { deadKey, retriesKey } from '../../src/event/names.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { type GroupEnv, groupTest as test } from './group-env.js'
import { GROUP } from './happened.js'

describe('leave', () => {
  const names = async ({ redis, key }: GroupEnv) =>
    ((await redis.xinfo('CONSUMERS', key, GROUP)) as unknown[][]).map((info) => info[info.indexOf('name') + 1])

  test('removes itself and names that were idle for so long, and none with something pending', async ({ env }) => {
    const { redis, key, one, two, given } = env
    await given(one, 1)
    for (const name of ['two', 'three']) await redis.xgroup('CREATECONSUMER', key, GROUP, name)
    expect(await two.removeIdleConsumers(redis, 3_600_000)).toBe(0)
    expect(await names(env)).toEqual(['one', 'three', 'two'])
    // Every name is idle for 0 ms at least, and its own is kept unless it goes.
    expect(await two.removeIdleConsumers(redis, 0)).toBe(1)
    expect(await names(env)).toEqual(['one', 'two'])
    expect(await two.removeIdleConsumers(redis, Number.MAX_SAFE_INTEGER, true)).toBe(1)
    expect(await one.removeIdleConsumers(redis, Number.MAX_SAFE_INTEGER, true)).toBe(0)
    expect(await names(env)).toEqual(['one'])
    expect(await one.state(redis)).toMatchObject({ pending: 1 })
  })
})

describe('where the group is missing, or the stream', () => {
  const calls: [string, (env: GroupEnv) => Promise<unknown>][] = [
    ['claim', ({ one, redis }) => one.claim(redis, 0, 1)],
    ['take', ({ one, redis }) => one.readOrdered(redis, '1', 1, '-')],
    ['beat', ({ one, redis }) => one.heartbeat(redis, ['1-1'])],
    ['begin', ({ one, redis }) => one.startDelivery(redis, '1-1')],
    ['fail', ({ one, redis }) => one.recordFailure(redis, '1-1', 'x')],
    ['deadLetter', ({ one, redis }) => one.deadLetter(redis, { id: '1-1', fields: ['a', 'b'] }, [])],
    ['release', ({ one, redis }) => one.release(redis, [{ id: '1-1', uncounted: true }])],
    ['leave', ({ one, redis }) => one.removeIdleConsumers(redis, 0)],
  ]

  test.for(calls)('%s says so, and makes nothing', async ([, call], { env }) => {
    const { redis, key } = env
    await redis.xgroup('DESTROY', key, GROUP)
    const group = await call(env).catch((error: unknown) => error)
    expect(isMissingGroup(group), String(group)).toBe(true)
    await redis.del(key)
    const stream = await call(env).catch((error: unknown) => error)
    expect(isMissingGroup(stream), String(stream)).toBe(true)
    expect(await redis.exists(key, retriesKey(key, GROUP), deadKey(key, GROUP))).toBe(0)
  })

  test('create makes both, once', async ({ env }) => {
    const { redis, key, one, two } = env
    await redis.del(key)
    expect(await one.exists(redis)).toBe(false)
    expect([await one.create(redis, '0'), await two.create(redis, '0')]).toEqual([true, false])
    expect(await two.exists(redis)).toBe(true)
    expect(await new ConsumerGroup(key, 'other', 'one').exists(redis)).toBe(false)
  })
})

test('state tells what is pending, how old the oldest is, and what was not delivered yet', async ({ env }) => {
  const { redis, key, one, given } = env
  expect(await one.state(redis)).toEqual({ stream: key, pending: 0, oldestPendingSeconds: 0, lag: 0 })
  await redis.xadd(key, `${Date.now() - 60_000}-0`, 'n', 'old')
  await given(one, 1)
  await redis.xadd(key, '*', 'n', 'new')
  const { oldestPendingSeconds, ...rest } = await one.state(redis)
  expect(rest).toEqual({ stream: key, pending: 1, lag: 2 })
  expect(oldestPendingSeconds).toBeGreaterThanOrEqual(59)
  expect(await new ConsumerGroup('nowhere', GROUP, 'one').state(redis)).toMatchObject({ pending: 0, lag: undefined })
})
