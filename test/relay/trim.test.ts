import { expect } from 'vitest'
import { deadKey } from '../../src/event/names.js'
import { entryOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'
import { insertSome, read } from './trim-env.js'

/** Streams are looked at each second. */
const YAML = 'streams: { "*": { retention: 1s } }'

const isGone = (env: RelayEnv, stream: string) => async () => (await env.redis.xlen(stream)) === 0

test('entries go when they are older than the retention and every group has finished them, and no earlier', async ({
  env,
  configFile,
}) => {
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(YAML) })
  await env.redis.xgroup('CREATE', 'orders', 'billing', '0', 'MKSTREAM')
  await env.redis.xgroup('CREATE', 'orders', 'mail', '0')
  const events = await insertSome(env, 'orders', 5)
  const entries = await read(env, 'billing', 5)
  await env.redis.xack('orders', 'billing', ...entries)
  const [first = '', second = '', third = ''] = await read(env, 'mail', 3)
  await env.redis.xack('orders', 'mail', first, third)
  await until(async () => (await env.ids('orders'))[0] === events[1], { message: 'the first entry to go' })
  // Looked at several times since the second one was old enough.
  const overdue = () => relay.metric('outrider_trim_overdue_seconds{stream="orders",group="mail"}')
  await until(async () => ((await overdue()) ?? 0) > 3, { message: 'the group to be named that holds it up' })
  expect(await env.ids('orders')).toEqual(events.slice(1))
  await env.redis.xack('orders', 'mail', second)
  await until(async () => (await env.ids('orders'))[0] === events[3], { message: 'what is finished to go' })
  await env.redis.xack('orders', 'mail', ...(await read(env, 'mail', 2)))
  await until(isGone(env, 'orders'), { message: 'the rest to go' })
  expect(await relay.metric('outrider_entries_trimmed_total')).toBe(5)

  // What the next session relies on is there.
  await relay.stop()
  await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(YAML) })
  await insertSome(env, 'orders', 1)
  expect((await env.postgres.query('select from outrider.incident')).rowCount).toBe(0)
})

test('a group that was destroyed, and one that is declared and does not exist yet, are waited for', async ({
  env,
  configFile,
}) => {
  const yaml = 'streams: { orders: { retention: 1s }, users: { retention: 1s, groups: [audit] } }'
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
  await insertSome(env, 'users', 2)
  await env.redis.xgroup('CREATE', 'orders', 'billing', '0', 'MKSTREAM')
  const events = await insertSome(env, 'orders', 3)
  await env.redis.xack('orders', 'billing', ...(await read(env, 'billing', 1)))
  await until(async () => (await env.ids('orders')).length === 2)
  await env.redis.xgroup('DESTROY', 'orders', 'billing')
  const held = (stream: string, group: string) => async () =>
    ((await relay.metric(`outrider_trim_overdue_seconds{stream="${stream}",group="${group}"}`)) ?? 0) > 3
  await until(held('orders', 'billing'), { message: 'the group that is gone to be named' })
  await until(held('users', 'audit'), { message: 'the group that is declared to be named' })
  expect(await env.ids('orders')).toEqual(events.slice(1))
  expect((await env.ids('users')).length).toBe(2)

  await relay.kill()
  await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
  await env.redis.xgroup('CREATE', 'users', 'audit', '$')
  await until(isGone(env, 'users'), { message: 'the stream whose group has come to be trimmed' })
  expect(await env.ids('orders')).toEqual(events.slice(1))
  await env.postgres.query("delete from outrider.consumer_group where consumer_group = 'billing'")
  await until(isGone(env, 'orders'), { message: 'the stream to be trimmed once the group is forgotten' })
})

test('more finished entries than are kept go, and at least those of the last ten minutes stay', async ({
  env,
  configFile,
}) => {
  await env.redis.xgroup('CREATE', 'orders', 'billing', '$', 'MKSTREAM')
  const old = Date.now() - 3_600_000
  for (let n = 0; n < 1_000; n++) await env.redis.xadd('orders', `${old}-${n}`, ...entryOf({}, { source: '/another' }))
  for (let n = 0; n < 300; n++) await env.redis.xadd('orders', '*', ...entryOf({}, { source: '/another' }))
  await env.redis.xgroup('SETID', 'orders', 'billing', '$', 'ENTRIESREAD', 1_300)
  // So that it is looked at soon.
  const yaml = 'streams: { orders: { retention: 5h, maxFinished: 700 }, users: { retention: 30s, maxFinished: 100 } }'
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
  await insertSome(env, 'orders', 1)
  await until(async () => ((await relay.metric('outrider_entries_trimmed_total')) ?? 0) >= 500, {
    message: 'finished entries to go',
  })
  const length = await env.redis.xlen('orders')
  expect(length).toBeGreaterThanOrEqual(701)
  expect(length).toBeLessThanOrEqual(801)
})

test('an installation of an earlier version is not trimmed until the configuration says so', async ({
  env,
  configFile,
}) => {
  await env.postgres.query('update outrider.lineage set trims = false')
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile('streams: { users: { retention: 1s } }') })
  await insertSome(env, 'users', 1)
  await insertSome(env, 'orders', 1)
  await until(isGone(env, 'users'), { message: 'the stream to be trimmed that is named' })
  const policy = () => env.redis.hvals('outrider:{orders}:policy')
  await until(async () => (await policy()).length === 1, { message: 'the other one to be looked at' })
  expect(await policy()).toEqual(['{"groups":[]}'])
  expect(await env.redis.xlen('orders')).toBe(1)
  await relay.stop()
})

test('the maximum length is kept past what a group has not finished, which is counted and said of each group', async ({
  env,
  configFile,
}) => {
  await env.redis.xgroup('CREATE', 'orders', 'billing', '0', 'MKSTREAM')
  const yaml = 'streams: { orders: { retention: 8s, maxLength: 3, deadLetterRetention: 1s } }'
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
  const dead = deadKey('orders', 'billing')
  await env.redis.xadd(dead, '*', ...entryOf({}))
  const events = await insertSome(env, 'orders', 5)
  await until(async () => (await env.redis.xlen('orders')) === 3, { message: 'the stream to be cut' })
  expect(await env.ids('orders')).toEqual(events.slice(2))
  expect(await relay.metric('outrider_entries_cut_total{stream="orders",group="billing"}')).toBe(2)
  const lines = await relay.logged(({ msg }) => msg === 'stream cut to its maximum length')
  expect(lines.map(({ unfinished }) => unfinished)).toContainEqual({ billing: expect.any(Number) })
  await until(async () => (await env.redis.xlen(dead)) === 0, { message: 'the dead letter to go' })
})
