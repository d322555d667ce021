import { expect } from 'vitest'
import { deadKey, headKey, policyKey } from '../../src/event/names.js'
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
  await until(async () => ((await overdue()) ?? 0) > 1, { message: 'the group to be named that holds it up' })
  expect(await env.ids('orders')).toEqual(events.slice(1))
  // The relay says what takes room.
  await env.redis.xadd(deadKey('orders', 'mail'), `${Date.now() - 3_600_000}-0`, 'source', '/another')
  await until(async () => (await relay.metric('outrider_dead_letters{stream="orders",group="mail"}')) === 1)
  expect(await relay.metric('outrider_dead_letters{stream="orders",group="billing"}')).toBe(0)
  expect(await relay.metric('outrider_dead_letters_oldest_seconds{stream="orders",group="mail"}')).toBeGreaterThan(
    3_600,
  )
  expect(await relay.metric('outrider_stream_bytes{stream="orders"}')).toBeGreaterThan(500)
  expect(await relay.metric('outrider_redis_used_memory_bytes')).toBeGreaterThan(100_000)
  await env.redis.xack('orders', 'mail', second)
  await until(async () => (await env.ids('orders'))[0] === events[3], { message: 'what is finished to go' })
  await env.redis.xack('orders', 'mail', ...(await read(env, 'mail', 2)))
  await until(isGone(env, 'orders'), { message: 'the rest to go' })
  // Counted a moment after they are gone.
  await until(async () => (await relay.metric('outrider_entries_trimmed_total')) === 5, {
    message: 'five to be counted',
  })

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
    ((await relay.metric(`outrider_trim_overdue_seconds{stream="${stream}",group="${group}"}`)) ?? 0) > 1
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

test('more finished entries than are kept go, at once and also while Redis is out of memory, and those of the last ten minutes stay', async ({
  env,
  configFile,
}) => {
  const add = `for n = 1, ARGV[2] do redis.call('XADD', KEYS[1], ARGV[1] == '' and '*' or ARGV[1] .. '-' .. n, 'source', '/another') end`
  // More than one look removes.
  await env.redis.eval(add, 1, 'orders', Date.now() - 3_600_000, 250_000)
  await env.redis.eval(add, 1, 'orders', '', 300)
  await env.redis.xgroup('CREATE', 'orders', 'billing', '$', 'ENTRIESREAD', 250_300)
  const yaml = 'streams: { orders: { retention: 5h, maxFinished: 700 } }'
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
  await insertSome(env, 'orders', 1)
  await env.redis.config('SET', 'maxmemory', '1')
  await until(async () => ((await relay.metric('outrider_entries_trimmed_total')) ?? 0) >= 249_500, {
    message: 'finished entries to go, without the pause of a minute between two looks',
    timeout: 30_000,
  })
  expect(await env.redis.set('text', 'x').catch(({ message }) => message)).toMatch(/^OOM/)
  const length = await env.redis.xlen('orders')
  expect(length).toBeGreaterThanOrEqual(701)
  expect(length).toBeLessThanOrEqual(801)
  await env.redis.config('SET', 'maxmemory', '0')
})

test('while Redis lacks memory finished entries go early, none that a group has not finished, and that is said when it begins and ends', async ({
  env,
  configFile,
}) => {
  const add = `for n = 1, ARGV[2] do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. n, 'source', '/another') end`
  await env.redis.eval(add, 1, 'orders', Date.now() - 3_600_000, 4_000)
  await env.redis.xgroup('CREATE', 'orders', 'billing', '$', 'ENTRIESREAD', 4_000)
  // All but one, which is before the end of the first quarter.
  await env.redis.xgroup('CREATE', 'orders', 'mail', '0')
  const entries = await read(env, 'mail', 4_000)
  const [unfinished] = entries.splice(300, 1)
  await env.redis.xack('orders', 'mail', ...entries)
  const [, used] = /used_memory:(\d+)/.exec(await env.redis.info('memory')) ?? []
  await env.redis.config('SET', 'maxmemory', Number(used) * 4)
  const yaml = 'streams: { orders: { retention: 0, trimAtMemory: 10 } }'
  const relay = await env.streamingRelay({ OUTRIDER_CONFIG: await configFile(yaml) })
  await insertSome(env, 'orders', 1)
  const trimmed = async () => (await relay.metric('outrider_entries_trimmed_total')) ?? 0
  await until(async () => (await trimmed()) > 0, { message: 'finished entries to go' })
  await relay.logged(({ msg, trimAtMemory }) => msg === 'trimming for memory begins' && trimAtMemory === 10)
  expect((await env.redis.xrange('orders', '-', '+', 'COUNT', 1))[0]?.[0]).toBe(unfinished)
  expect(await relay.metric('outrider_redis_max_memory_bytes')).toBeGreaterThan(Number(used))

  await env.redis.config('SET', 'maxmemory', '0')
  await env.redis.xack('orders', 'mail', unfinished as string)
  await relay.logged(({ msg }) => msg === 'trimming for memory ends')
  expect(await env.redis.xlen('orders')).toBe(3_701)
})

test('of two databases in one stream none trims what the other one keeps, or has lost', async ({
  createEnv,
  configFile,
}) => {
  const [env, other] = [await createEnv(), await createEnv()]
  const yaml = (retention: string) => configFile(`streams: { orders: { retention: ${retention} } }`)
  const OUTRIDER_REDIS_URL = env.server.url
  const keeping = await other.streamingRelay({ OUTRIDER_REDIS_URL, OUTRIDER_CONFIG: await yaml('60s') })
  const { lineage } = (await other.postgres.query('select lineage from outrider.lineage')).rows[0]
  // One that is retired in this database, which may be a copy, is left out only until its relay says again what it keeps.
  await env.postgres.query(
    `insert into outrider.lineage (lineage, slot, publication, source, outbox_table, system_id, timeline, publication_state, retired_at)
     select $1, slot, publication, source, outbox_table, system_id, timeline, publication_state, now() from outrider.lineage`,
    [lineage],
  )
  const relay = await env.streamingRelay({ OUTRIDER_REDIS_URL, OUTRIDER_CONFIG: await yaml('1s') })
  const policies = () => env.redis.hkeys(policyKey('orders'))
  await other.insert('orders')
  await insertSome(env, 'orders', 1)
  // Before, each may trim alone.
  await until(async () => (await policies()).length === 2)
  const last = [await other.insert('orders'), ...(await insertSome(env, 'orders', 1))]
  const published = () => env.ids('orders')
  const kept = await until(async () => {
    const ids = await published()
    return last.every((id) => ids.includes(id)) && ids
  })
  const age = () => relay.metric('outrider_stream_oldest_entry_seconds{stream="orders"}')
  const before = (await age()) ?? 0
  await until(async () => ((await age()) ?? 0) > before + 4, { message: 'the stream to be looked at again' })
  expect([(await policies()).length, await published()]).toEqual([2, kept])

  await keeping.kill()
  // The other one has lost entries, and has not noticed it.
  await env.redis.hset(headKey('orders', lineage), 'entry', '9999999999999-0')
  await env.redis.hset(policyKey('orders'), lineage, '{"retention":1000,"groups":[]}')
  await relay.logged(
    ({ msg, err }) => msg === 'trimming failed, retrying' && /has lost events/.test(JSON.stringify(err)),
  )
  expect(await published()).toEqual(kept)
  await env.redis.hdel(policyKey('orders'), lineage)
  await until(isGone(env, 'orders'), { message: 'the stream to be trimmed without the other one' })
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
  const cut = () => relay.metric('outrider_entries_cut_total{stream="orders",group="billing"}')
  await until(async () => (await cut()) === 2, { message: 'two to be counted as cut' })
  const lines = await relay.logged(({ msg }) => msg === 'stream cut to its maximum length')
  expect(lines.map(({ unfinished }) => unfinished)).toContainEqual({ billing: expect.any(Number) })
  await until(async () => (await env.redis.xlen(dead)) === 0, { message: 'the dead letter to go' })
})
