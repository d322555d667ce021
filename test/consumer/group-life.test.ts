import type { Redis as Client } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { isMissingGroup } from '../../src/consumer/link.js'
import { deadKey, retriesKey } from '../../src/event/names.js'
import { Group } from '../../src/redis/group.js'
import { type FreshRedis, freshRedis } from '../../testkit/services/index.js'

const GROUP = 'billing'

let server: FreshRedis
let redis: Client
let key: string
let one: Group
let two: Group
let count = 0

beforeAll(async () => {
  server = await freshRedis()
  redis = server.client()
})

afterAll(async () => {
  redis.disconnect()
  await server.remove()
})

beforeEach(async () => {
  key = `life-${++count}`
  one = new Group(key, GROUP, 'one')
  two = new Group(key, GROUP, 'two')
  await one.create(redis, '0')
})

/** An entry that `one` was given. */
async function given(): Promise<void> {
  await redis.xadd(key, '*', 'n', '1')
  await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', key, '>')
}

describe('leave', () => {
  const names = async () =>
    ((await redis.xinfo('CONSUMERS', key, GROUP)) as unknown[][]).map((info) => info[info.indexOf('name') + 1])

  test('removes itself and names that were idle for so long, and none with something pending', async () => {
    await given()
    for (const name of ['two', 'three']) await redis.xgroup('CREATECONSUMER', key, GROUP, name)
    expect(await two.leave(redis, 3_600_000)).toBe(0)
    expect(await names()).toEqual(['one', 'three', 'two'])
    // Every name is idle for 0 ms at least, and its own is kept unless it goes.
    expect(await two.leave(redis, 0)).toBe(1)
    expect(await names()).toEqual(['one', 'two'])
    expect(await two.leave(redis, Number.MAX_SAFE_INTEGER, true)).toBe(1)
    expect(await one.leave(redis, Number.MAX_SAFE_INTEGER, true)).toBe(0)
    expect(await names()).toEqual(['one'])
    expect(await one.state(redis)).toMatchObject({ pending: 1 })
  })
})

describe('where the group is missing, or the stream', () => {
  const calls: [string, () => Promise<unknown>][] = [
    ['claim', () => one.claim(redis, 0, 1)],
    ['take', () => one.take(redis, '1', 1, '-')],
    ['beat', () => one.beat(redis, ['1-1'])],
    ['begin', () => one.begin(redis, '1-1')],
    ['fail', () => one.fail(redis, '1-1', 'x')],
    ['bury', () => one.bury(redis, { id: '1-1', fields: ['a', 'b'] }, [])],
    ['release', () => one.release(redis, [{ id: '1-1', uncounted: true }])],
    ['leave', () => one.leave(redis, 0)],
  ]

  test.each(calls)('%s says so, and makes nothing', async (_, call) => {
    await redis.xgroup('DESTROY', key, GROUP)
    const group = await call().catch((error: unknown) => error)
    expect(isMissingGroup(group), String(group)).toBe(true)
    await redis.del(key)
    const stream = await call().catch((error: unknown) => error)
    expect(isMissingGroup(stream), String(stream)).toBe(true)
    expect(await redis.exists(key, retriesKey(key, GROUP), deadKey(key, GROUP))).toBe(0)
  })

  test('create makes both, once', async () => {
    await redis.del(key)
    expect(await one.exists(redis)).toBe(false)
    expect([await one.create(redis, '0'), await two.create(redis, '0')]).toEqual([true, false])
    expect(await two.exists(redis)).toBe(true)
    expect(await new Group(key, 'other', 'one').exists(redis)).toBe(false)
  })
})

test('state tells what is pending, how old the oldest is, and what was not delivered yet', async () => {
  expect(await one.state(redis)).toEqual({ stream: key, pending: 0, oldestPendingSeconds: 0, lag: 0 })
  await redis.xadd(key, `${Date.now() - 60_000}-0`, 'n', 'old')
  await given()
  await redis.xadd(key, '*', 'n', 'new')
  const { oldestPendingSeconds, ...rest } = await one.state(redis)
  expect(rest).toEqual({ stream: key, pending: 1, lag: 2 })
  expect(oldestPendingSeconds).toBeGreaterThanOrEqual(59)
  expect(await new Group('nowhere', GROUP, 'one').state(redis)).toMatchObject({ pending: 0, lag: undefined })
})
