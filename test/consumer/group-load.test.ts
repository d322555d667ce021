import { expect } from 'vitest'
import { groupTest as test } from './group-env.js'
import { GROUP } from './happened.js'

const PAYLOAD = 'x'.repeat(1_000)

test('what is claimed comes without its payload, and without what is large in its headers', async ({ env }) => {
  const { redis, key, two } = env
  const entry = ['type', 'a', 'subject', PAYLOAD.repeat(2), 'tenant', PAYLOAD.repeat(2), 'short', 'b', 'data', PAYLOAD]
  const id = (await redis.xadd(key, '*', ...entry)) as string
  await redis.xreadgroup('GROUP', GROUP, 'one', 'STREAMS', key, '>')
  const fields = ['type', 'a', 'subject', PAYLOAD.repeat(2), 'short', 'b']
  const size = entry.reduce((sum, text) => sum + text.length, 0)
  expect(await two.claim(redis, 0, 1)).toEqual([{ id, fields, size, deliveries: 1, attempts: '' }])
  expect(await two.load(redis, [id], 0)).toEqual([{ id, fields: entry }])
})

test('payloads are loaded in turn, as many as the bytes hold, and one at least', async ({ env }) => {
  const { redis, key, one } = env
  const fields = ['data', PAYLOAD]
  const ids: string[] = []
  for (let n = 0; n < 5; n++) ids.push((await redis.xadd(key, '*', ...fields)) as string)
  await redis.xreadgroup('GROUP', GROUP, 'one', 'STREAMS', key, '>')
  const loaded = async (maxBytes: number) => (await one.load(redis, ids, maxBytes)).map(({ id }) => id)
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
  await one.fail(redis, a, '{"attempts":3}')
  await redis.xack(key, GROUP, b)
  await redis.xdel(key, a, b, d)
  expect(await one.load(redis, [a, b, c, d], 100_000)).toEqual([
    { id: a, missing: 'trimmed' },
    { id: b, missing: 'gone' },
    { id: c, fields: ['n', '2'] },
    { id: d, missing: 'gone' },
  ])
  expect(await pending()).toEqual([
    [c, 'one', 1],
    [d, 'two', 1],
  ])
  expect(await retries()).toEqual({})
  expect(await one.load(redis, [a], 100_000)).toEqual([{ id: a, missing: 'gone' }])
})

test('a replica that does not have an entry loses none: nothing is decided there', async ({ env }) => {
  const { redis, one, given, pending } = env
  const [id] = (await given(one, 1)) as [string]
  await redis.xdel(env.key, id)
  await redis.call('REPLICAOF', '127.0.0.1', '1')
  try {
    await expect(one.load(redis, [id], 100_000)).rejects.toThrow(/READONLY|replica/i)
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
  expect(await one.bury(redis, { id: a, fields: undefined }, said)).toBe(true)
  await redis.xdel(key, b, c)
  expect(await one.bury(redis, { id: b, fields: undefined }, said)).toBe('trimmed')
  expect(await one.wait(redis, { id: b, fields: undefined }, 5, ['waiting-attempts', '1'])).toBe('trimmed')
  expect(await one.bury(redis, { id: c, fields: ['n', 'kept'] }, said)).toBe(true)
  const letters = (await redis.xrange(`outrider:{${key}}:dead:${GROUP}`, '-', '+')).map(([, fields]) => fields)
  expect(letters).toEqual([
    ['n', '0', ...said],
    ['n', 'kept', ...said],
  ])
})

test('a read is bounded in bytes: what exceeds them has no payload, and nothing behind its page is read', async ({
  env,
}) => {
  const { redis, key, one, pending } = env
  for (let n = 0; n < 40; n++) await redis.xadd(key, '*', 'data', 'x')
  for (let n = 0; n < 60; n++) await redis.xadd(key, '*', 'data', PAYLOAD)
  const { fresh, more } = await one.read(redis, 1_000, 10_000)
  const bytes = fresh
    .filter(({ size }) => size === undefined)
    .flatMap(({ fields }) => fields)
    .join('').length
  expect([fresh.length, more]).toEqual([64, true])
  expect(bytes).toBeGreaterThan(9_000)
  expect(bytes).toBeLessThanOrEqual(10_000)
  expect(fresh.at(-1)).toEqual({ id: expect.any(String), fields: [], size: 1_004 })
  expect(await pending()).toHaveLength(64)
  expect((await one.read(redis, 1_000, 1_000_000)).fresh).toHaveLength(36)
  expect(await one.read(redis, 1_000, 1_000_000)).toEqual({ fresh: [], more: false })
})

test('an ordered read is bounded in bytes likewise', async ({ env }) => {
  const { redis, key, one, pending } = env
  for (let n = 0; n < 100; n++) await redis.xadd(key, '*', 'data', PAYLOAD)
  const reply = await one.take(redis, '1', 256, '-', 10_000)
  expect(reply).toMatchObject({ complete: true, more: true })
  expect(await pending()).toHaveLength(32)
  expect(await one.take(redis, '1', 256, '', 1_000_000)).toMatchObject({ more: false })
  expect(await pending()).toHaveLength(100)
})
