import type { Redis as Client } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { retriesKey } from '../../src/event/names.js'
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
  key = `things-${++count}`
  one = new Group(key, GROUP, 'one')
  two = new Group(key, GROUP, 'two')
  await one.create(redis, '0')
})

/** Entries that this consumer was given; their ids. */
async function given(group: Group, n: number): Promise<string[]> {
  for (let i = 0; i < n; i++) await redis.xadd(key, '*', 'n', String(i))
  const reply = await redis.xreadgroup('GROUP', GROUP, group.consumer, 'COUNT', n, 'STREAMS', key, '>')
  return (reply as [string, [string, string[]][]][])[0]![1].map(([id]) => id)
}

/** As if the consumer had given no sign of life for them for so long. */
const idle = (group: Group, milliseconds: number, ...ids: string[]) =>
  redis.xclaim(key, GROUP, group.consumer, 0, ...ids, 'IDLE', milliseconds, 'JUSTID')

/** What XPENDING shows: id, consumer and deliveries. */
const pending = async () =>
  ((await redis.xpending(key, GROUP, '-', '+', 100)) as [string, string, number, number][]).map(
    ([id, consumer, , deliveries]) => [id, consumer, deliveries],
  )

const retries = () => redis.hgetall(retriesKey(key, GROUP))

describe('claim', () => {
  test('takes what was idle for so long, whoever had it, and counts no delivery', async () => {
    const [a, b, c] = (await given(one, 3)) as [string, string, string]
    await idle(one, 60_000, a, c)
    expect(await two.claim(redis, 30_000, 10)).toEqual([
      { id: a, fields: ['n', '0'], deliveries: 1, attempts: '' },
      { id: c, fields: ['n', '2'], deliveries: 1, attempts: '' },
    ])
    expect(await pending()).toEqual([
      [a, 'two', 1],
      [b, 'one', 1],
      [c, 'two', 1],
    ])
    expect(await two.claim(redis, 30_000, 10)).toEqual([])
  })

  test('takes no more than it was asked for, the oldest first', async () => {
    const ids = await given(one, 5)
    await idle(one, 60_000, ...ids)
    expect((await two.claim(redis, 30_000, 2)).map(({ id }) => id)).toEqual(ids.slice(0, 2))
    expect((await two.claim(redis, 30_000, 9)).map(({ id }) => id)).toEqual(ids.slice(2))
  })

  test('of its own finds what a lost reply has left pending, and nothing of others', async () => {
    const [a] = await given(one, 1)
    const [b] = await given(two, 1)
    expect((await two.claim(redis, 0, 10, true)).map(({ id }) => id)).toEqual([b])
    expect(await pending()).toEqual([
      [a, 'one', 1],
      [b, 'two', 1],
    ])
  })

  test('tells what was remembered of failed attempts', async () => {
    const [a] = (await given(one, 1)) as [string]
    await one.fail(redis, a, '{"attempts":3}')
    await idle(one, 60_000, a)
    expect(await two.claim(redis, 30_000, 10)).toMatchObject([{ id: a, attempts: '{"attempts":3}' }])
  })

  test('acknowledges what was trimmed, and tells of it once, without fields', async () => {
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.fail(redis, a, '{"attempts":1}')
    await idle(one, 60_000, a, b)
    await redis.xdel(key, a)
    expect(await two.claim(redis, 30_000, 10)).toEqual([
      { id: a, fields: undefined, deliveries: 1, attempts: '' },
      { id: b, fields: ['n', '1'], deliveries: 1, attempts: '' },
    ])
    expect(await pending()).toEqual([[b, 'two', 1]])
    expect(await retries()).toEqual({})
    expect(await two.claim(redis, 0, 10)).toHaveLength(1)
  })
})

describe('beat', () => {
  test('keeps entries from being claimed, and counts no delivery', async () => {
    const ids = await given(one, 2)
    await idle(one, 60_000, ...ids)
    expect(await one.beat(redis, ids)).toEqual([])
    expect(await two.claim(redis, 30_000, 10)).toEqual([])
    expect(await pending()).toEqual(ids.map((id) => [id, 'one', 1]))
  })

  test('names what another consumer has, and leaves it there; what is done is nobody’s', async () => {
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
  test('counts one more delivery before the run', async () => {
    const [a] = (await given(one, 1)) as [string]
    await idle(one, 60_000, a)
    await two.claim(redis, 30_000, 10)
    expect(await two.begin(redis, a)).toBe(true)
    expect(await pending()).toEqual([[a, 'two', 2]])
  })

  test('of another consumer’s, or of what is done, is refused and counts nothing', async () => {
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.acknowledge(redis, [b], [])
    expect(await two.begin(redis, a)).toBe(false)
    expect(await two.begin(redis, b)).toBe(false)
    expect(await pending()).toEqual([[a, 'one', 1]])
  })
})

describe('fail', () => {
  test('remembers the attempts, and the count of deliveries begins anew', async () => {
    const [a] = (await given(one, 1)) as [string]
    for (let n = 0; n < 3; n++) await one.begin(redis, a)
    expect(await pending()).toEqual([[a, 'one', 4]])
    expect(await one.fail(redis, a, '{"attempts":1}')).toBe(true)
    expect(await pending()).toEqual([[a, 'one', 1]])
    expect(await retries()).toEqual({ [a]: '{"attempts":1}' })
    expect(await two.claim(redis, 30_000, 10)).toEqual([])
  })

  test('of another consumer’s, or of what is done, is refused and remembers nothing', async () => {
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.begin(redis, a)
    await one.acknowledge(redis, [b], [])
    expect(await two.fail(redis, a, 'x')).toBe(false)
    expect(await one.fail(redis, b, 'x')).toBe(false)
    expect(await pending()).toEqual([[a, 'one', 2]])
    expect(await retries()).toEqual({})
  })

  test('is forgotten when the event is done', async () => {
    const [a, b] = (await given(one, 2)) as [string, string]
    await one.fail(redis, a, 'x')
    await one.fail(redis, b, 'y')
    await one.acknowledge(redis, [a], [a])
    expect(await pending()).toEqual([[b, 'one', 1]])
    expect(await retries()).toEqual({ [b]: 'y' })
  })
})

describe('release', () => {
  test('lets another consumer claim at once; a delivery that was not begun is not counted', async () => {
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

  test('leaves what another consumer has, and what is done', async () => {
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
  test.each<[string, (id: string) => Promise<unknown>]>([
    ['beat', (id) => one.beat(redis, [id])],
    ['begin', (id) => one.begin(redis, id)],
    ['fail', (id) => one.fail(redis, id, 'x')],
    ['release', (id) => one.release(redis, [{ id, uncounted: true }])],
  ])('stays pending after a %s, so that somebody tells of it', async (_, act) => {
    const [a] = (await given(one, 1)) as [string]
    await redis.xdel(key, a)
    await act(a)
    expect(await two.claim(redis, 0, 10)).toMatchObject([{ id: a, fields: undefined }])
    expect([await pending(), await retries()]).toEqual([[], {}])
  })
})
