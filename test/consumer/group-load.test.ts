import { expect } from 'vitest'
import { setAside, groupTest as test } from './group-env.js'
import { GROUP } from './happened.js'

const PAYLOAD = 'x'.repeat(1_000)
/** Of two handlers of a stream. */
const PLACES = { '1 slow': 0, '1 quick': 1 }

test('what is claimed comes without its payload and its headers', async ({ env }) => {
  const { redis, key, two } = env
  const entry = ['type', 'a', 'subject', PAYLOAD.repeat(2), 'tenant', PAYLOAD.repeat(2), 'short', 'b', 'data', PAYLOAD]
  const id = (await redis.xadd(key, '*', ...entry)) as string
  await redis.xreadgroup('GROUP', GROUP, 'one', 'STREAMS', key, '>')
  const fields = ['type', 'a', 'subject', PAYLOAD.repeat(2)]
  const size = entry.reduce((sum, text) => sum + text.length, 0)
  expect((await two.claim(redis, 0, 1)).taken).toEqual([{ id, fields, size, deliveryCount: 1, attempts: '' }])
  expect(await two.loadPayloads(redis, [id], 0)).toEqual([{ id, fields: entry }])
})

test('payloads are loaded in turn, as many as the bytes hold, and one at least', async ({ env }) => {
  const { redis, key, one } = env
  const fields = ['data', PAYLOAD]
  const ids: string[] = []
  for (let n = 0; n < 5; n++) ids.push((await redis.xadd(key, '*', ...fields)) as string)
  await redis.xreadgroup('GROUP', GROUP, 'one', 'STREAMS', key, '>')
  const loaded = async (maxBytes: number) => (await one.loadPayloads(redis, ids, maxBytes)).map(({ id }) => id)
  expect(await loaded(2_500)).toEqual(ids.slice(0, 2))
  expect(await loaded(0)).toEqual(ids.slice(0, 1))
  expect(await loaded(100_000)).toEqual(ids)
})

test('what was trimmed while it was pending here is acknowledged and told once; what another has is left alone', async ({
  env,
}) => {
  const { redis, key, one, two, given, pending, retries } = env
  const [a, b, c] = (await given(one, 3)) as [string, string, string]
  const [d] = (await given(two, 1)) as [string]
  await one.recordFailure(redis, a, '{"attempts":3}')
  await redis.xack(key, GROUP, b)
  await redis.xdel(key, a, b, d)
  expect(await one.loadPayloads(redis, [a, b, c, d], 100_000)).toEqual([
    { id: a, missing: 'trimmed' },
    { id: b, missing: 'gone' },
    { id: c, fields: ['id', '2'] },
    { id: d, missing: 'gone' },
  ])
  expect(await pending()).toEqual([
    [c, 'one', 1],
    [d, 'two', 1],
  ])
  expect(await retries()).toEqual({})
  expect(await one.loadPayloads(redis, [a], 100_000)).toEqual([{ id: a, missing: 'gone' }])
})

test('a replica that does not have an entry loses none: nothing is decided there', async ({ env }) => {
  const { redis, one, given, pending } = env
  const [id] = (await given(one, 1)) as [string]
  await redis.xdel(env.key, id)
  await redis.call('REPLICAOF', '127.0.0.1', '1')
  try {
    await expect(one.loadPayloads(redis, [id], 100_000)).rejects.toThrow(/READONLY|replica/i)
  } finally {
    await redis.call('REPLICAOF', 'NO', 'ONE')
  }
  expect(await pending()).toEqual([[id, 'one', 1]])
})

test('what is moved takes its payload from the stream, and from the worker only where it was trimmed', async ({
  env,
}) => {
  const { redis, key, one, given } = env
  const [a, b, c] = (await given(one, 3)) as [string, string, string]
  const said = ['deadreason', 'crashed']
  expect(await one.deadLetter(redis, { id: a, fields: undefined }, said)).toBe(true)
  await redis.xdel(key, b, c)
  expect(await one.deadLetter(redis, { id: b, fields: undefined }, said)).toBe('trimmed')
  expect(await setAside(one, redis, { id: b, fields: undefined }, 5, ['waiting-attempts', '1'])).toBe('trimmed')
  expect(await one.deadLetter(redis, { id: c, fields: ['n', 'kept'] }, said)).toBe(true)
  const letters = (await redis.xrange(`outrider:{${key}}:dead:${GROUP}`, '-', '+')).map(([, fields]) => fields)
  expect(letters).toEqual([
    ['id', '0', ...said],
    ['n', 'kept', ...said],
  ])
})

test('a read is bounded in bytes: what exceeds them has no payload, and nothing behind its page is read', async ({
  env,
}) => {
  const { redis, key, one, pending } = env
  for (let n = 0; n < 40; n++) await redis.xadd(key, '*', 'data', 'x')
  for (let n = 0; n < 60; n++) await redis.xadd(key, '*', 'data', PAYLOAD)
  const { fresh, more } = await one.readNew(redis, 1_000, 10_000)
  const bytes = fresh
    .filter(({ size }) => size === undefined)
    .flatMap(({ fields }) => fields)
    .join('').length
  expect([fresh.length, more]).toEqual([64, true])
  expect(bytes).toBeGreaterThan(9_000)
  expect(bytes).toBeLessThanOrEqual(10_000)
  expect(fresh.at(-1)).toEqual({ id: expect.any(String), fields: [], size: 1_004 })
  expect(await pending()).toHaveLength(64)
  expect((await one.readNew(redis, 1_000, 1_000_000)).fresh).toHaveLength(36)
  expect(await one.readNew(redis, 1_000, 1_000_000)).toEqual({ fresh: [], more: false })
})

test('an ordered read is bounded in bytes likewise', async ({ env }) => {
  const { redis, key, one, pending } = env
  for (let n = 0; n < 100; n++) await redis.xadd(key, '*', 'data', PAYLOAD)
  const reply = await one.readOrdered(redis, '1', 256, '-', 10_000)
  expect(reply).toMatchObject({ complete: true, more: true })
  expect(await pending()).toHaveLength(32)
  expect(await one.readOrdered(redis, '1', 256, '', 1_000_000)).toMatchObject({ more: false })
  expect(await pending()).toHaveLength(100)
})

test('a read for some handlers ends behind the last entry that one of them lacks, or takes nothing', async ({
  env,
}) => {
  const { redis, key, one, pending } = env
  for (const type of ['slow', 'slow', 'slow', 'quick', 'slow', 'slow']) await redis.xadd(key, '*', 'type', type)
  const read = async (slow: number, quick: number) => {
    const { fresh, more } = await one.readNew(redis, 100, 1_000, { places: PLACES, lacks: [slow, quick] })
    return [fresh.length, more]
  }
  expect(await read(1, 0)).toEqual([1, true])
  expect(await read(1, 5)).toEqual([3, true])
  // There is something, and nothing that is lacking.
  expect(await read(0, 5)).toEqual([0, true])
  expect(await pending()).toHaveLength(4)
  expect(await read(5, 5)).toEqual([2, true])
  expect(await read(5, 5)).toEqual([0, false])
})

test('while thousands of entries are pending, a read for some handlers ends before the first that none of them lacks', async ({
  env,
}) => {
  const { redis, key, one, given } = env
  await given(one, 10_000)
  for (const type of ['quick', 'unknown', 'quick', 'slow', 'quick']) await redis.xadd(key, '*', 'type', type)
  const read = async (slow: number, quick: number) => {
    const { fresh, more } = await one.readNew(redis, 100, 1_000, { places: PLACES, lacks: [slow, quick] })
    return [fresh.length, more]
  }
  expect(await read(0, 5)).toEqual([3, true])
  expect(await read(0, 5)).toEqual([0, true])
  expect(await read(1, 5)).toEqual([2, true])
})
