import { describe, expect } from 'vitest'
import { type GroupEnv, groupTest as test } from './group-env.js'

/** Of two handlers of a stream. */
const PLACES = { '1 slow': 0, '1 quick': 1 }

describe('claim', () => {
  test('takes what was idle for so long from any consumer, and counts no delivery', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await idle(one, 60_000, a, c)
    expect((await two.claim(redis, 30_000, 10)).taken).toEqual([
      { id: a, fields: ['id', '0'], size: 3, deliveryCount: 1, attempts: '' },
      { id: c, fields: ['id', '2'], size: 3, deliveryCount: 1, attempts: '' },
    ])
    expect(await pending()).toEqual([
      [a, 'two', 1],
      [b, 'one', 1],
      [c, 'two', 1],
    ])
    expect((await two.claim(redis, 30_000, 10)).taken).toEqual([])
  })

  test('takes no more than it was asked for, the oldest first', async ({ env }) => {
    const { redis, one, two, given, idle } = env
    const ids = await given(one, 5)
    await idle(one, 60_000, ...ids)
    expect((await two.claim(redis, 30_000, 2)).taken.map(({ id }) => id)).toEqual(ids.slice(0, 2))
    expect((await two.claim(redis, 30_000, 9)).taken.map(({ id }) => id)).toEqual(ids.slice(2))
  })

  test('leaves what no handler lacks, says where that begins, and continues where it ended', async ({ env }) => {
    const { redis, key, one, two } = env
    const ids: string[] = []
    for (const type of ['slow', 'slow', 'quick', 'unknown', 'slow', 'quick']) {
      ids.push((await redis.xadd(key, '*', 'type', type)) as string)
    }
    await redis.xreadgroup('GROUP', one.group, 'one', 'STREAMS', key, '>')
    const wanted = (slow: number, quick: number) => ({ places: PLACES, lacks: [slow, quick] })
    const claim = async (from: string, ...lacks: [number, number]) => {
      const { taken, ...rest } = await two.claim(redis, 0, 10, from, wanted(...lacks))
      return { taken: taken.map(({ id }) => ids.indexOf(id)), ...rest }
    }
    const skipped = { from: ids[1], places: [0] }
    expect(await claim('-', 1, 5)).toEqual({ taken: [0, 2, 3, 5], next: undefined, skipped })
    // It ends as soon as no handler lacks any more.
    expect(await claim(ids[1] as string, 1, 0)).toEqual({ taken: [1], next: `(${ids[1]}`, skipped: undefined })
  })

  test('of its own finds what a lost reply has left pending, and nothing of others', async ({ env }) => {
    const { redis, one, two, given, pending } = env
    const [a] = await given(one, 1)
    const [b] = await given(two, 1)
    expect((await two.own(redis, '', 10)).map(({ id }) => id)).toEqual([b])
    expect(await pending()).toEqual([
      [a, 'one', 1],
      [b, 'two', 1],
    ])
  })

  test('tells what was remembered of failed attempts', async ({ env }) => {
    const { redis, one, two, given, idle } = env
    const [a] = (await given(one, 1)) as [string]
    await one.recordFailure(redis, a, '{"attempts":3}')
    await idle(one, 60_000, a)
    expect((await two.claim(redis, 30_000, 10)).taken).toMatchObject([{ id: a, attempts: '{"attempts":3}' }])
  })

  test('acknowledges what was trimmed, and tells of it once, without fields', async ({ env }) => {
    const { redis, key, one, two, given, idle, pending, retries } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.recordFailure(redis, a, '{"attempts":1}')
    await idle(one, 60_000, a, b)
    await redis.xdel(key, a)
    expect((await two.claim(redis, 30_000, 10)).taken).toEqual([
      { id: a, fields: undefined, size: 0, deliveryCount: 1, attempts: '' },
      { id: b, fields: ['id', '1'], size: 3, deliveryCount: 1, attempts: '' },
    ])
    expect(await pending()).toEqual([[b, 'two', 1]])
    expect(await retries()).toEqual({})
    expect((await two.claim(redis, 0, 10)).taken).toHaveLength(1)
  })
})

describe('beat', () => {
  test('keeps entries from being claimed, and counts no delivery', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const ids = await given(one, 2)
    await idle(one, 60_000, ...ids)
    expect(await one.heartbeat(redis, ids)).toEqual({ lost: [], deleted: [] })
    expect((await two.claim(redis, 30_000, 10)).taken).toEqual([])
    expect(await pending()).toEqual(ids.map((id) => [id, 'one', 1]))
  })

  test('names what another consumer has, and leaves it there; what is done is no worker’s', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await idle(one, 60_000, a)
    await two.claim(redis, 30_000, 10)
    await one.acknowledge(redis, [b], [])
    await idle(two, 60_000, a)
    expect(await one.heartbeat(redis, [a, b, c])).toEqual({ lost: [a], deleted: [] })
    expect(await pending()).toEqual([
      [a, 'two', 1],
      [c, 'one', 1],
    ])
    // Nor did it refresh what the other one has.
    expect((await one.claim(redis, 30_000, 10)).taken).toHaveLength(1)
  })
})

describe('begin', () => {
  test('counts one more delivery before the run', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a] = (await given(one, 1)) as [string]
    await idle(one, 60_000, a)
    await two.claim(redis, 30_000, 10)
    expect(await two.startDelivery(redis, a)).toBe(true)
    expect(await pending()).toEqual([[a, 'two', 2]])
  })

  test('of another consumer’s, or of what is done, is refused and counts nothing', async ({ env }) => {
    const { redis, one, two, given, pending } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.acknowledge(redis, [b], [])
    expect(await two.startDelivery(redis, a)).toBe(false)
    expect(await two.startDelivery(redis, b)).toBe(false)
    expect(await pending()).toEqual([[a, 'one', 1]])
  })
})

describe('fail', () => {
  test('remembers the attempts, and the count of deliveries starts again', async ({ env }) => {
    const { redis, one, two, given, pending, retries } = env
    const [a] = (await given(one, 1)) as [string]
    for (let n = 0; n < 3; n++) await one.startDelivery(redis, a)
    expect(await pending()).toEqual([[a, 'one', 4]])
    expect(await one.recordFailure(redis, a, '{"attempts":1}')).toBe(true)
    expect(await pending()).toEqual([[a, 'one', 1]])
    expect(await retries()).toEqual({ [a]: '{"attempts":1}' })
    expect((await two.claim(redis, 30_000, 10)).taken).toEqual([])
  })

  test('of another consumer’s, or of what is done, is refused and remembers nothing', async ({ env }) => {
    const { redis, one, two, given, pending, retries } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.startDelivery(redis, a)
    await one.acknowledge(redis, [b], [])
    expect(await two.recordFailure(redis, a, 'x')).toBe(false)
    expect(await one.recordFailure(redis, b, 'x')).toBe(false)
    expect(await pending()).toEqual([[a, 'one', 2]])
    expect(await retries()).toEqual({})
  })

  test('is forgotten when the event is done', async ({ env }) => {
    const { redis, one, given, pending, retries } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.recordFailure(redis, a, 'x')
    await one.recordFailure(redis, b, 'y')
    await one.acknowledge(redis, [a], [a])
    expect(await pending()).toEqual([[b, 'one', 1]])
    expect(await retries()).toEqual({ [b]: 'y' })
  })
})

describe('release', () => {
  test('lets another consumer claim at once; a delivery that was not begun is not counted', async ({ env }) => {
    const { redis, one, two, given, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await one.startDelivery(redis, b)
    await one.release(redis, [
      { id: a, uncounted: true },
      { id: b, uncounted: true },
      { id: c, uncounted: false },
    ])
    expect(await pending()).toEqual([
      [a, 'one', 0],
      [b, 'one', 1],
      [c, 'one', 1],
    ])
    expect((await two.claim(redis, 3_000_000, 10)).taken.map(({ id, deliveryCount }) => [id, deliveryCount])).toEqual([
      [a, 0],
      [b, 1],
      [c, 1],
    ])
  })

  test('leaves what another consumer has, and what is done', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await idle(one, 60_000, a)
    await two.claim(redis, 30_000, 10)
    await one.acknowledge(redis, [b], [])
    await one.release(
      redis,
      [a, b, c].map((id) => ({ id, uncounted: true })),
    )
    expect(await pending()).toEqual([
      [a, 'two', 1],
      [c, 'one', 0],
    ])
    expect((await one.claim(redis, 30_000, 10)).taken.map(({ id }) => id)).toEqual([c])
    await one.release(redis, [])
  })
})

describe('an entry that was trimmed while a consumer holds it', () => {
  test.for<[string, (env: GroupEnv, id: string) => Promise<unknown>]>([
    ['beat', ({ one, redis }, id) => one.heartbeat(redis, [id])],
    ['begin', ({ one, redis }, id) => one.startDelivery(redis, id)],
    ['fail', ({ one, redis }, id) => one.recordFailure(redis, id, 'x')],
    ['release', ({ one, redis }, id) => one.release(redis, [{ id, uncounted: true }])],
  ])('stays pending after a %s, so that somebody tells of it', async ([, act], { env }) => {
    const { redis, key, one, two, given, pending, retries } = env
    const [a] = (await given(one, 1)) as [string]
    await redis.xdel(key, a)
    await act(env, a)
    expect((await two.claim(redis, 0, 10)).taken).toMatchObject([{ id: a, fields: undefined }])
    expect([await pending(), await retries()]).toEqual([[], {}])
  })
})

test('a release reads one entry, however many it releases, and names those that were deleted from the middle', async ({
  env,
}) => {
  const { redis, key, one, given, pending } = env
  const ids = await given(one, 100)
  const [trimmed, kept, deleted] = ids as [string, string, string]
  await redis.xdel(key, trimmed, deleted)
  const read = async () => Number(/cmdstat_xrange:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0)
  const before = await read()
  const entries = ids.map((id) => ({ id, uncounted: true }))
  expect(await one.release(redis, entries)).toEqual([deleted])
  expect((await read()) - before).toBe(1)
  expect(await pending()).toEqual([[trimmed, 'one', 1], ...[kept, ...ids.slice(3)].map((id) => [id, 'one', 0])])
})

test('a heartbeat reads one entry, however many it keeps, and names those that were deleted from the middle', async ({
  env,
}) => {
  const { redis, key, one, given, pending } = env
  const ids = await given(one, 100)
  const [trimmed, kept, deleted] = ids as [string, string, string]
  await redis.xdel(key, trimmed, deleted)
  const read = async () => Number(/cmdstat_xrange:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0)
  const before = await read()
  expect(await one.heartbeat(redis, ids)).toEqual({ lost: [], deleted: [deleted] })
  expect((await read()) - before).toBe(1)
  const left = (await pending()).map(([id]) => id)
  expect(left).toEqual([trimmed, kept, ...ids.slice(3)])
})

describe('isSettled', () => {
  test('is true of what was acknowledged, and not of what is pending or trimmed', async ({ env }) => {
    const { redis, key, one, two, given } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await one.acknowledge(redis, [a, b], [])
    await redis.xdel(key, b)
    expect(await Promise.all([a, b, c].map((id) => two.isSettled(redis, id)))).toEqual([true, false, false])
  })

  test('is false where Redis has lost the delivery, and will repeat it', async ({ env }) => {
    const { redis, key, one, given } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await redis.xgroup('DESTROY', key, one.group)
    await redis.xgroup('CREATE', key, one.group, a)
    expect(await one.isSettled(redis, b)).toBe(false)
    await redis.xgroup('DESTROY', key, one.group)
    expect(await one.isSettled(redis, a)).toBe(false)
  })
})
