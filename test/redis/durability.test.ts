import { type Redis as Client, Cluster } from 'ioredis'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Head } from '../../src/event/head.js'
import { headKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { closeRedis, connectRedis, type RedisClient } from '../../src/redis/client/connect.js'
import { classifyRedis } from '../../src/redis/client/errors.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import {
  BarrierMismatchError,
  DurabilityUnmetError,
  loadBarrier,
  reachDurability,
  tryLevel,
} from '../../src/redis/streams/durability.js'
import {
  freePort,
  needsProcess,
  type Redis,
  type RedisCluster,
  type RedisOptions,
  startRedis,
  startRedisCluster,
  until,
} from '../../testkit/services/index.js'
import { at, call, events, idsIn, LINEAGE } from '../support/events.js'

const AOF = { appendonly: 'yes', appendfsync: 'everysec' }
const cleanups: (() => Promise<void>)[] = []

beforeEach((context) => needsProcess(context, ['redis']))

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function start(options?: RedisOptions): Promise<Redis> {
  const redis = await startRedis(options)
  cleanups.push(() => redis.remove())
  return redis
}

/** A connection on which nothing was written yet, as the barrier has it. */
async function connect(url: string): Promise<RedisClient> {
  const client = await connectRedis({ url, connectTimeout: 5_000 }, 'outrider-test')
  cleanups.push(async () => closeRedis(client))
  await Promise.all([loadAppend(client), loadBarrier(client)])
  return client
}

/** Appends three events to each stream over a connection of its own, and says where the heads are now. */
async function published(url: string, ...streams: string[]): Promise<Map<string, Head>> {
  const client = await connect(url)
  const heads = new Map<string, Head>()
  for (const key of streams) {
    const reply = await call(client, { key, session: 'one', previous: ZERO_POSITION, events: events(1, 3) })
    expect(reply).toMatchObject({ status: 'OK', appended: 3 })
    heads.set(key, reply.head)
  }
  return heads
}

/** Once it has the first copy: before that it acknowledges nothing. */
const connected = async (client: RedisClient) => /^slave0:.*state=online/m.test(await client.info('replication'))

interface Skippable {
  skip(note: string): void
}

/** WAITAOF came with Redis 7.2. */
async function needsWaitAof(context: Skippable, client: RedisClient): Promise<void> {
  const [known] = (await client.call('COMMAND', 'INFO', 'WAITAOF')) as unknown[]
  if (known) return
  const reason = 'needs WAITAOF, which Redis has from 7.2 on'
  console.warn(`skipped: ${reason}`)
  context.skip(reason)
}

describe('in memory', () => {
  it('is reached by heads that are at or past their positions, which then bear a watermark', async () => {
    const { url } = await start()
    const heads = await published(url, 'orders', 'payments')
    heads.set('orders', { ...(heads.get('orders') as Head), position: at(2) })
    const client = await connect(url)
    await reachDurability(client, 'memory', 'one', LINEAGE, heads)
    expect(await client.hgetall(headKey('orders', LINEAGE))).toMatchObject({ position: at(3), durable: at(2) })
    expect(await client.hgetall(headKey('payments', LINEAGE))).toMatchObject({ position: at(3), durable: at(3) })
    const next = { key: 'orders', session: 'one', previous: at(3), events: events(4, 4) }
    expect(await call(client, next)).toMatchObject({ status: 'OK', appended: 1 })
  })

  const broken: [string, RegExp, (client: Client, head: string) => Promise<unknown>][] = [
    ['belongs to another session', /^OTHER/, (client, head) => client.hset(head, 'session', 'two')],
    ['is gone', /^BEHIND/, (client, head) => client.del(head)],
    ['has gone back', /^BEHIND/, (client, head) => client.hset(head, 'position', at(2))],
  ]
  it.each(broken)('is broken when one head %s, and nothing is written to that', async (_, message, breakHead) => {
    const { url } = await start()
    const heads = await published(url, 'orders', 'payments')
    const client = (await connect(url)) as Client
    await breakHead(client, headKey('orders', LINEAGE))
    const before = await client.dumpBuffer(headKey('orders', LINEAGE))
    const barrier = reachDurability(client, 'memory', 'one', LINEAGE, heads)
    await expect(barrier).rejects.toSatisfy(
      (error) => error instanceof BarrierMismatchError && message.test(error.message),
    )
    await expect(barrier).rejects.toThrow('stream orders')
    expect(await client.dumpBuffer(headKey('orders', LINEAGE))).toEqual(before)
  })

  it('says what Redis says when it refuses the barrier', async () => {
    const redis = await start()
    const heads = await published(redis.url, 'orders')
    const client = await connect(redis.url)
    await redis.config('maxmemory', '1')
    await expect(reachDurability(client, 'memory', 'one', LINEAGE, heads)).rejects.toThrow(/^OOM/)
    await redis.config('maxmemory', '0')
    await client.call('ACL', 'SETUSER', 'default', '-hset')
    const refused = reachDurability(client, 'memory', 'one', LINEAGE, heads)
    await expect(refused).rejects.toSatisfy(({ message }) => classifyRedis(message).reason === 'redis_noperm')
  })
})

describe('on the disk', () => {
  it('is not to be had without an append-only file', async () => {
    const { url } = await start()
    const client = await connect(url)
    await expect(tryLevel(client, 'fsync', LINEAGE)).rejects.toMatchObject({ name: 'ReplyError' })
    const heads = await published(url, 'orders')
    await expect(reachDurability(client, 'fsync', 'one', LINEAGE, heads)).rejects.toMatchObject({ name: 'ReplyError' })
  })

  it('is reached with a sync every second, and outlives kill -9', async (context) => {
    const redis = await start({ settings: AOF })
    const client = await connect(redis.url)
    await needsWaitAof(context, client)
    // A sync may take longer than it is waited for: on a busy machine not always the first time.
    await until(() => tryLevel(client, 'fsync', LINEAGE).then(() => true), { message: 'a trial to succeed' })
    const heads = await published(redis.url, 'orders')
    const reached = () => reachDurability(client, 'fsync', 'one', LINEAGE, heads).then(() => true)
    await until(reached, { message: 'durability on the disk' })
    await redis.kill('SIGKILL')
    await redis.start()
    expect(await idsIn((await connect(redis.url)) as Client, 'orders')).toEqual(['e1', 'e2', 'e3'])
  })

  it('is not reached while Redis leaves syncing to the system', async (context) => {
    const { url } = await start({ settings: { appendonly: 'yes', appendfsync: 'no' } })
    const client = await connect(url)
    await needsWaitAof(context, client)
    const heads = await published(url, 'orders')
    await expect(reachDurability(client, 'fsync', 'one', LINEAGE, heads)).rejects.toBeInstanceOf(DurabilityUnmetError)
    await expect(tryLevel(client, 'fsync', LINEAGE)).rejects.toBeInstanceOf(DurabilityUnmetError)
  })

  it('of a replica, too, is reached when both keep a file', async (context) => {
    const primary = await start({ settings: AOF })
    const replica = await start({ settings: AOF, replicaOf: primary })
    const client = await connect(primary.url)
    await needsWaitAof(context, client)
    await until(() => connected(client), { message: 'the replica to be connected' })
    // A replica acknowledges syncs once it has rewritten its file after the first copy.
    await until(() => tryLevel(client, 'fsync+replicated', LINEAGE).then(() => true), { message: 'a trial to succeed' })
    const heads = await published(primary.url, 'orders')
    // Two syncs and an acknowledgement, each of which may take a second: on a busy machine not always the first time.
    const reached = () => reachDurability(client, 'fsync+replicated', 'one', LINEAGE, heads).then(() => true)
    await until(reached, { message: 'durability on both disks' })
    await replica.config('appendonly', 'no')
    const more = { key: 'orders', session: 'one', previous: at(3), events: events(4, 4) }
    expect(await call(client, more)).toMatchObject({ status: 'OK' })
    const unmet = reachDurability(client, 'fsync+replicated', 'one', LINEAGE, heads)
    await expect(unmet).rejects.toBeInstanceOf(DurabilityUnmetError)
  })
})

describe('in a replica', () => {
  it('is not to be had without one, and trying does not take long', async () => {
    const { url } = await start()
    const client = await connect(url)
    const began = performance.now()
    await expect(tryLevel(client, 'replicated', LINEAGE)).rejects.toThrow('found none')
    await expect(tryLevel(client, 'fsync+replicated', LINEAGE)).rejects.toBeInstanceOf(DurabilityUnmetError)
    expect(performance.now() - began).toBeLessThan(4_000)
    const heads = await published(url, 'orders')
    const unmet = reachDurability(client, 'replicated', 'one', LINEAGE, heads)
    await expect(unmet).rejects.toSatisfy(
      (error) => error instanceof DurabilityUnmetError && /replica/.test(error.message),
    )
  })

  it('is reached when it has everything', async () => {
    const primary = await start()
    const replica = await start({ replicaOf: primary })
    const client = await connect(primary.url)
    await until(() => connected(client), { message: 'the replica to be connected' })
    await tryLevel(client, 'replicated', LINEAGE)
    const heads = await published(primary.url, 'orders')
    await reachDurability(client, 'replicated', 'one', LINEAGE, heads)
    await primary.kill('SIGKILL')
    const left = replica.client()
    cleanups.push(async () => left.disconnect())
    expect(await idsIn(left, 'orders')).toEqual(['e1', 'e2', 'e3'])
  })

  it('is not reached while it hangs, on a connection that has published nothing itself', async () => {
    const primary = await start()
    const replica = await start({ replicaOf: primary })
    const client = await connect(primary.url)
    await until(() => connected(client), { message: 'the replica to be connected' })
    await tryLevel(client, 'replicated', LINEAGE)
    await replica.freeze()
    const heads = await published(primary.url, 'orders')
    const fresh = await connect(primary.url)
    await expect(reachDurability(fresh, 'replicated', 'one', LINEAGE, heads)).rejects.toBeInstanceOf(
      DurabilityUnmetError,
    )
    await expect(tryLevel(await connect(primary.url), 'replicated', LINEAGE)).rejects.toBeInstanceOf(
      DurabilityUnmetError,
    )
    await replica.thaw()
    await reachDurability(fresh, 'replicated', 'one', LINEAGE, heads)
  })
})

it('appends and reaches durability in a cluster, over its streams’ slots', async () => {
  const redis = await start({
    settings: {
      'cluster-enabled': 'yes',
      'cluster-announce-ip': '127.0.0.1',
      // By default the port plus 10000, which may be past the last one.
      'cluster-port': `${await freePort()}`,
    },
  })
  const node = redis.client()
  cleanups.push(async () => node.disconnect())
  await node.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
  const isUp = async () => ((await node.call('CLUSTER', 'INFO')) as string).includes('cluster_state:ok')
  await until(isUp, { message: 'the cluster to be up' })

  const url = redis.url.replace('redis://', 'redis+cluster://')
  const heads = await published(url, 'orders', 'payments', 'orders:7')
  const client = await connect(url)
  expect(client).toBeInstanceOf(Cluster)
  await reachDurability(client, 'memory', 'one', LINEAGE, heads)
  await expect(reachDurability(client, 'memory', 'two', LINEAGE, heads)).rejects.toBeInstanceOf(BarrierMismatchError)
  await tryLevel(client, 'memory', LINEAGE)
  await expect(tryLevel(client, 'replicated', LINEAGE)).rejects.toBeInstanceOf(DurabilityUnmetError)
  for (const key of heads.keys()) {
    expect(await idsIn(node, key)).toEqual(['e1', 'e2', 'e3'])
    expect(await node.hget(headKey(key, LINEAGE), 'durable')).toBe(at(3))
  }
  // A node that is new to the cluster does not know the scripts.
  await node.script('FLUSH')
  const next = { key: 'orders', session: 'one', previous: at(3), events: events(4, 4) }
  const reply = await call(client, next)
  expect(reply).toMatchObject({ status: 'ERROR', appended: 0 })
  expect(classifyRedis(reply.error).reason).toBe('redis_noscript')
  await loadAppend(client)
  expect(await call(client, next)).toMatchObject({ status: 'OK', appended: 1 })
})

describe('in a cluster whose primaries have replicas', () => {
  const startCluster = async (): Promise<RedisCluster> => {
    const cluster = await startRedisCluster({ masters: 2, replicas: 1 })
    cleanups.push(() => cluster.remove())
    return cluster
  }

  it('waits where a head is already, while the slot of its stream still moves there', async () => {
    const cluster = await startCluster()
    const heads = await published(cluster.url, 'orders')
    const to = cluster.masterOf('users')
    expect(cluster.masterOf('orders')).not.toBe(to)
    await cluster.beginMove('orders', to)
    await cluster.moveKeys('orders', to)
    const client = await connect(cluster.url)
    const reach = () => reachDurability(client, 'replicated', 'one', LINEAGE, heads)
    await reach()
    const replica = cluster.replicaOf('users')
    await replica.freeze()
    await expect(reach()).rejects.toBeInstanceOf(DurabilityUnmetError)
    await replica.thaw()
    await reach()
  })

  it('is not to be had where one of them has none, whichever the trial writes to', async () => {
    const cluster = await startCluster()
    const client = await connect(cluster.url)
    await tryLevel(client, 'replicated', LINEAGE)
    const trial = cluster.masterOf('{trial}')
    const [other] = cluster.masters.filter((master) => master !== trial) as [Redis]
    const replica = cluster.replicaOf(other === cluster.masterOf('users') ? 'users' : 'orders')
    await replica.kill()
    await until(async () => /^connected_slaves:0/m.test(String(await other.command('INFO', 'replication'))), {
      message: 'the replica to be gone',
    })
    await expect(tryLevel(client, 'replicated', LINEAGE)).rejects.toThrow('found none')
  })
})
