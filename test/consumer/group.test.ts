import { describe, expect } from 'vitest'
import { type GroupEnv, groupTest as test } from './group-env.js'

describe('claim', () => {
  test('takes what was idle for so long from any consumer, and counts no delivery', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await idle(one, 60_000, a, c)
    expect(await two.claim(redis, 30_000, 10)).toEqual([
      { id: a, fields: ['n', '0'], size: 2, deliveries: 1, attempts: '' },
      { id: c, fields: ['n', '2'], size: 2, deliveries: 1, attempts: '' },
    ])
    expect(await pending()).toEqual([
      [a, 'two', 1],
      [b, 'one', 1],
      [c, 'two', 1],
    ])
    expect(await two.claim(redis, 30_000, 10)).toEqual([])
  })

  test('takes no more than it was asked for, the oldest first', async ({ env }) => {
    const { redis, one, two, given, idle } = env
    const ids = await given(one, 5)
    await idle(one, 60_000, ...ids)
    expect((await two.claim(redis, 30_000, 2)).map(({ id }) => id)).toEqual(ids.slice(0, 2))
    expect((await two.claim(redis, 30_000, 9)).map(({ id }) => id)).toEqual(ids.slice(2))
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
    await one.fail(redis, a, '{"attempts":3}')
    await idle(one, 60_000, a)
    expect(await two.claim(redis, 30_000, 10)).toMatchObject([{ id: a, attempts: '{"attempts":3}' }])
  })

  test('acknowledges what was trimmed, and tells of it once, without fields', async ({ env }) => {
    const { redis, key, one, two, given, idle, pending, retries } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.fail(redis, a, '{"attempts":1}')
    await idle(one, 60_000, a, b)
    await redis.xdel(key, a)
    expect(await two.claim(redis, 30_000, 10)).toEqual([
      { id: a, fields: undefined, size: 0, deliveries: 1, attempts: '' },
      { id: b, fields: ['n', '1'], size: 2, deliveries: 1, attempts: '' },
    ])
    expect(await pending()).toEqual([[b, 'two', 1]])
    expect(await retries()).toEqual({})
    expect(await two.claim(redis, 0, 10)).toHaveLength(1)
  })
})

describe('beat', () => {
  test('keeps entries from being claimed, and counts no delivery', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const ids = await given(one, 2)
    await idle(one, 60_000, ...ids)
    expect(await one.beat(redis, ids)).toEqual([])
    expect(await two.claim(redis, 30_000, 10)).toEqual([])
    expect(await pending()).toEqual(ids.map((id) => [id, 'one', 1]))
  })

  test('names what another consumer has, and leaves it there; what is done is nobody’s', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await idle(one, 60_000, a)
    await two.claim(redis, 30_000, 10)
    await one.acknowledge(redis, [b], [])
    await idle(two, 60_000, a)
    expect(await one.beat(redis, [a, b, c])).toEqual([a])
    expect(await pending()).toEqual([
      [a, 'two', 1],
      [c, 'one', 1],
    ])
    // Nor did it refresh what the other one has.
    expect(await one.claim(redis, 30_000, 10)).toHaveLength(1)
  })
})

describe('begin', () => {
  test('counts one more delivery before the run', async ({ env }) => {
    const { redis, one, two, given, idle, pending } = env
    const [a] = (await given(one, 1)) as [string]
    await idle(one, 60_000, a)
    await two.claim(redis, 30_000, 10)
    expect(await two.begin(redis, a)).toBe(true)
    expect(await pending()).toEqual([[a, 'two', 2]])
  })

  test('of another consumer’s, or of what is done, is refused and counts nothing', async ({ env }) => {
    const { redis, one, two, given, pending } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.acknowledge(redis, [b], [])
    expect(await two.begin(redis, a)).toBe(false)
    expect(await two.begin(redis, b)).toBe(false)
    expect(await pending()).toEqual([[a, 'one', 1]])
  })
})

describe('fail', () => {
  test('remembers the attempts, and the count of deliveries begins anew', async ({ env }) => {
    const { redis, one, two, given, pending, retries } = env
    const [a] = (await given(one, 1)) as [string]
    for (let n = 0; n < 3; n++) await one.begin(redis, a)
    expect(await pending()).toEqual([[a, 'one', 4]])
    expect(await one.fail(redis, a, '{"attempts":1}')).toBe(true)
    expect(await pending()).toEqual([[a, 'one', 1]])
    expect(await retries()).toEqual({ [a]: '{"attempts":1}' })
    expect(await two.claim(redis, 30_000, 10)).toEqual([])
  })

  test('of another consumer’s, or of what is done, is refused and remembers nothing', async ({ env }) => {
    const { redis, one, two, given, pending, retries } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.begin(redis, a)
    await one.acknowledge(redis, [b], [])
    expect(await two.fail(redis, a, 'x')).toBe(false)
    expect(await one.fail(redis, b, 'x')).toBe(false)
    expect(await pending()).toEqual([[a, 'one', 2]])
    expect(await retries()).toEqual({})
  })

  test('is forgotten when the event is done', async ({ env }) => {
    const { redis, one, given, pending, retries } = env
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.fail(redis, a, 'x')
    await one.fail(redis, b, 'y')
    await one.acknowledge(redis, [a], [a])
    expect(await pending()).toEqual([[b, 'one', 1]])
    expect(await retries()).toEqual({ [b]: 'y' })
  })
})

describe('release', () => {
  test('lets another consumer claim at once; a delivery that was not begun is not counted', async ({ env }) => {
    const { redis, one, two, given, pending } = env
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await one.begin(redis, b)
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
    expect((await two.claim(redis, 3_000_000, 10)).map(({ id, deliveries }) => [id, deliveries])).toEqual([
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
    expect((await one.claim(redis, 30_000, 10)).map(({ id }) => id)).toEqual([c])
    await one.release(redis, [])
  })
})

describe('an entry that was trimmed while a consumer holds it', () => {
  test.for<[string, (env: GroupEnv, id: string) => Promise<unknown>]>([
    ['beat', ({ one, redis }, id) => one.beat(redis, [id])],
    ['begin', ({ one, redis }, id) => one.begin(redis, id)],
    ['fail', ({ one, redis }, id) => one.fail(redis, id, 'x')],
    ['release', ({ one, redis }, id) => one.release(redis, [{ id, uncounted: true }])],
  ])('stays pending after a %s, so that somebody tells of it', async ([, act], { env }) => {
    const { redis, key, one, two, given, pending, retries } = env
    const [a] = (await given(one, 1)) as [string]
    await redis.xdel(key, a)
    await act(env, a)
    expect(await two.claim(redis, 0, 10)).toMatchObject([{ id: a, fields: undefined }])
    expect([await pending(), await retries()]).toEqual([[], {}])
  })
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
