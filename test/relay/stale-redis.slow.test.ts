import { expect } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import {
  freePort,
  needsProcess,
  type Redis,
  redisClient,
  startProxy,
  startRedis,
  until,
} from '../../testkit/services/index.js'
import { TcpProxy } from '../../testkit/services/proxy.js'
import { nameMaster, startSentinel } from '../support/sentinel.js'
import { lostStreams } from './redis-loss-env.js'
import { relayTest as base, type RelayEnv } from './relay-env.js'

interface Failover {
  env: RelayEnv
  primary: Redis
  /** What a virtual IP address does: the same address leads to another server, and open connections are cut. */
  leadTo(redis: Redis): Promise<void>
  /** Publishes to a stream, and waits until Postgres has saved its head. */
  saved(stream: string): Promise<string>
}

const test = base.extend<{ failover: Failover }>({
  failover: async ({ createEnv, skip, onTestFinished }, use) => {
    needsProcess({ skip }, ['redis'])
    const primary = await startRedis({ settings: { appendonly: 'yes', appendfsync: 'always' } })
    onTestFinished(() => primary.remove())
    let proxy = await startProxy(primary.port)
    onTestFinished(() => proxy.close())
    const env = await createEnv({
      redis: { url: proxy.url(primary.url), client: (o) => redisClient(primary.url, o), remove: async () => {} },
    })
    await use({
      env,
      primary,
      async leadTo({ port }) {
        await proxy.close()
        proxy = new TcpProxy(port, proxy.port)
        await proxy.accept()
      },
      async saved(stream) {
        const id = await env.insert(stream)
        const heads = 'select from outrider.head where stream_key = $1 and event_id = $2'
        await until(async () => (await env.postgres.query(heads, [stream, id])).rowCount === 1)
        return id
      },
    })
  },
})

/** `users` is whole on it and `orders` is not. It is a primary, and may be made a replica of nothing. */
async function outdatedCopy({ primary, saved }: Failover): Promise<{ copy: Redis; orders: string[]; users: string[] }> {
  const users = [await saved('users')]
  const first = await saved('orders')
  const copy = await startRedis({ dataFrom: await primary.cloneData(), settings: { appendonly: 'yes' } })
  return { copy, orders: [first, await saved('orders')], users }
}

const everIncidents = (env: RelayEnv) => listIncidents(env.postgres, { closed: true })

test('a replica that lags, under the address of the primary, is waited out: no gap, no loss, the same session', async ({
  failover,
  onTestFinished,
}) => {
  const { env, primary, leadTo } = failover
  const relay = await env.relay({ OUTRIDER_DURABILITY: 'memory' })
  await relay.streaming()
  const { copy, orders } = await outdatedCopy(failover)
  onTestFinished(() => copy.remove())
  await copy.command('REPLICAOF', '127.0.0.1', String(await freePort()))

  await leadTo(copy)
  await relay.is({ role: 'active', state: 'blocked', reason: 'redis_readonly' })
  expect((await relay.status())?.message).toContain('Expected a primary of Redis, found the role "slave"')
  await leadTo(primary)
  await relay.streaming()
  orders.push(await env.insert('orders'))
  await until(async () => (await env.ids('orders')).length === orders.length)
  expect(await env.ids('orders')).toEqual(orders)
  expect(await everIncidents(env)).toEqual([])
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test('a sentinel that names a replica which lags is waited out: no gap, no loss, the same session', async ({
  failover,
  onTestFinished,
}) => {
  const { env, primary } = failover
  const sentinel = await startSentinel(primary.port)
  const relay = await env.relay({
    OUTRIDER_DURABILITY: 'memory',
    OUTRIDER_REDIS_URL: `redis+sentinel://127.0.0.1:${sentinel}/main`,
  })
  await relay.streaming()
  const { copy, orders } = await outdatedCopy(failover)
  onTestFinished(() => copy.remove())
  await copy.command('REPLICAOF', '127.0.0.1', String(await freePort()))

  await nameMaster(sentinel, copy.port)
  await primary.command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await relay.is({ role: 'active', state: 'blocked' })
  await until(async () => ((await relay.metric('outrider_errors_total')) ?? 0) > 2)
  expect(await relay.status()).toMatchObject({ role: 'active', state: 'blocked' })
  await nameMaster(sentinel, primary.port)
  await relay.streaming()
  orders.push(await env.insert('orders'))
  await until(async () => (await env.ids('orders')).length === orders.length)
  expect(await env.ids('orders')).toEqual(orders)
  expect(await everIncidents(env)).toEqual([])
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test('an old primary that is gone before the second look opens no gap, and is not written to', async ({
  failover,
  onTestFinished,
}) => {
  const { env, primary, leadTo } = failover
  const relay = await env.relay({ OUTRIDER_DURABILITY: 'memory' })
  await relay.streaming()
  const { copy, orders } = await outdatedCopy(failover)
  onTestFinished(() => copy.remove())
  const { rows } = await env.postgres.query('select lineage from outrider.lineage')
  const old = copy.client()
  onTestFinished(() => old.disconnect())
  const heads = () => Promise.all(['orders', 'users'].map((key) => old.hgetall(headKey(key, rows[0].lineage))))
  const before = await heads()

  await leadTo(copy)
  await relay.is({ role: 'active', state: 'blocked', reason: 'redis_behind' })
  await leadTo(primary)
  await relay.streaming()
  orders.push(await env.insert('orders'))
  await until(async () => (await env.ids('orders')).length === orders.length)
  expect(await env.ids('orders')).toEqual(orders)
  expect(await heads()).toEqual(before)
  expect(await everIncidents(env)).toEqual([])
})

test('a gap seen on an old primary closes by itself once all is found again, and nothing passes one that is left', async ({
  failover,
  onTestFinished,
}) => {
  const { env, primary, leadTo, saved } = failover
  const relay = await env.relay({ OUTRIDER_DURABILITY: 'memory' })
  await relay.streaming()
  const { copy, orders } = await outdatedCopy(failover)
  onTestFinished(() => copy.remove())
  const users = [...(await env.ids('users')), await saved('users')]

  await leadTo(copy)
  await relay.is({ role: 'halted', reason: 'stream_behind' })
  expect(Object.keys(await lostStreams(env))).toEqual(['orders', 'users'])
  // One of the two is lost in earnest.
  const { rows } = await env.postgres.query('select lineage from outrider.lineage')
  const head = await env.redis.hgetall(headKey('orders', rows[0].lineage))
  await env.redis.del(headKey('orders', rows[0].lineage))
  await leadTo(primary)
  const resolutions = async () => (await everIncidents(env)).map(({ resolution }) => resolution)
  await until(async () => Object.keys(await lostStreams(env)).length === 1)
  expect(Object.keys(await lostStreams(env))).toEqual(['orders'])
  expect(await resolutions()).toEqual([null])
  users.push(await env.insert('users'))
  const looks = () => relay.metric('outrider_errors_total{target="outrider",code="stream_behind"}')
  const seen = (await looks()) ?? 0
  await until(async () => ((await looks()) ?? 0) >= seen + 2)
  expect(await env.ids('users')).toEqual(users.slice(0, -1))

  await env.redis.hset(headKey('orders', rows[0].lineage), head)
  await relay.streaming()
  orders.push(await env.insert('orders'))
  await until(async () => (await env.ids('orders')).length === orders.length)
  expect([await env.ids('orders'), await env.ids('users')]).toEqual([orders, users])
  expect(await resolutions()).toEqual(['found again'])
})
