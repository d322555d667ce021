import type { Redis as Client } from 'ioredis'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { classifyRedis } from '../../src/redis/client/errors.js'
import { loadAppend } from '../../src/redis/streams/append.js'
import { needsProcess, type Redis, type RedisOptions, startRedis, until } from '../../testkit/services/index.js'
import { at, call, dump, events, idsIn, LINEAGE } from '../support/events.js'

const key = 'orders'
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

function connect(redis: Redis, options?: { username: string; password: string }): Client {
  const client = redis.client(options)
  cleanups.push(async () => client.disconnect())
  return client
}

const one = (client: Client, previous: string, from: number, to: number) =>
  call(client, { key, session: 'one', previous, events: events(from, to) })

describe('refused before anything is written', () => {
  it('by a Redis whose memory is full', async () => {
    const redis = await start()
    const client = connect(redis)
    await loadAppend(client)
    await one(client, ZERO_POSITION, 1, 2)
    const before = await dump(client, key)
    await redis.config('maxmemory', '1')
    const reply = await one(client, at(2), 3, 4)
    expect(reply).toMatchObject({ status: 'ERROR', head: { position: at(2) }, session: 'one', appended: 0 })
    expect(classifyRedis(reply.error)).toEqual({ policy: 'retry', reason: 'redis_oom' })
    expect(await call(client, { key, session: 'one', previous: at(2) })).toMatchObject({ status: 'OK' })
    await redis.config('maxmemory', '0')
    expect(await dump(client, key)).toEqual(before)
    expect(await one(client, at(2), 3, 4)).toMatchObject({ status: 'OK', appended: 2 })
    expect(await idsIn(client, key)).toEqual(['e1', 'e2', 'e3', 'e4'])
  })

  it('by a replica', async () => {
    const primary = await start()
    const client = connect(primary)
    await loadAppend(client)
    await one(client, ZERO_POSITION, 1, 2)
    const replica = connect(await start({ replicaOf: primary }))
    await until(async () => (await replica.exists(key)) === 1, { message: 'the replica to have the stream' })
    await loadAppend(replica)
    const reply = await one(replica, at(2), 3, 4)
    expect(reply).toMatchObject({ status: 'ERROR', head: { position: at(2) }, appended: 0 })
    expect(classifyRedis(reply.error)).toEqual({ policy: 'retry', reason: 'redis_readonly' })
    expect(await idsIn(replica, key)).toEqual(['e1', 'e2'])
  })

  it('by a Redis that requires more replicas than it has', async () => {
    const redis = await start({ settings: { 'min-replicas-to-write': '1' } })
    const client = connect(redis)
    await loadAppend(client)
    const reply = await one(client, ZERO_POSITION, 1, 2)
    expect(reply).toMatchObject({ status: 'ERROR', appended: 0 })
    expect(classifyRedis(reply.error)).toEqual({ policy: 'retry', reason: 'redis_noreplicas' })
    expect(await dump(client, key)).toEqual([null, null])
  })

  it.each([
    ['the stream', key],
    ['the head', headKey(key, LINEAGE)],
  ])('where %s is of another type', async (_, name) => {
    const client = connect(await start())
    await loadAppend(client)
    await client.set(name, 'a string')
    const before = await dump(client, key)
    for (const [from, to] of [
      [1, 2],
      [1, 0],
    ] as const) {
      const reply = await one(client, ZERO_POSITION, from, to)
      expect(reply).toMatchObject({ status: 'ERROR', appended: 0, error: expect.stringMatching(/^WRONGTYPE/) })
      expect(classifyRedis(reply.error)).toEqual({ policy: 'stream', reason: 'wrong_type' })
    }
    expect(await dump(client, key)).toEqual(before)
  })

  it.each(['hmget', 'xinfo', 'hset', 'xadd'])('to a user who may not %s, and done once he may', async (command) => {
    const redis = await start()
    const admin = connect(redis)
    await admin.call('ACL', 'SETUSER', 'relay', 'on', '>secret', '~*', '+@all')
    const client = connect(redis, { username: 'relay', password: 'secret' })
    await loadAppend(client)
    await one(client, ZERO_POSITION, 1, 2)

    await admin.call('ACL', 'SETUSER', 'relay', `-${command}`)
    const before = await dump(admin, key)
    const reply = await one(client, ZERO_POSITION, 1, 4)
    expect(reply).toMatchObject({ status: 'ERROR', appended: 0 })
    expect(classifyRedis(reply.error)).toEqual({ policy: 'retry', reason: 'redis_noperm' })
    expect(await dump(admin, key)).toEqual(before)

    await admin.call('ACL', 'SETUSER', 'relay', `+${command}`)
    expect(await one(client, ZERO_POSITION, 1, 4)).toMatchObject({ status: 'OK', appended: 2, skipped: 2 })
    expect(await idsIn(admin, key)).toEqual(['e1', 'e2', 'e3', 'e4'])
  })

  it('to a user who may not touch the head, and appends nothing to the stream that he may', async () => {
    const redis = await start()
    const admin = connect(redis)
    await admin.call('ACL', 'SETUSER', 'relay', 'on', '>secret', `~${key}`, '+@all')
    const client = connect(redis, { username: 'relay', password: 'secret' })
    await loadAppend(admin)
    const outcome = await one(client, ZERO_POSITION, 1, 2)
    expect(outcome).toMatchObject({ status: 'ERROR', appended: 0 })
    expect(classifyRedis(outcome.error)).toEqual({ policy: 'retry', reason: 'redis_noperm' })
    expect(await dump(admin, key)).toEqual([null, null])
  })
})

describe('an XADD that fails in the middle of a batch', () => {
  /** The stream takes `left` more entries, then its ids are used up. */
  async function exhausted(left: bigint) {
    const client = connect(await start())
    await loadAppend(client)
    await client.xadd(key, `${2n ** 64n - 1n}-${2n ** 64n - 1n - left}`, 'id', 'foreign')
    return client
  }

  it('reports its progress with the error, and the head covers exactly what was appended', async () => {
    const client = await exhausted(2n)
    const reply = await one(client, ZERO_POSITION, 1, 4)
    const last = (await client.xrevrange(key, '+', '-', 'COUNT', 1))[0]?.[0]
    expect(reply).toMatchObject({
      status: 'ERROR',
      head: { position: at(2), event: 'e2', entry: last },
      session: 'one',
      appended: 2,
      skipped: 0,
    })
    expect(classifyRedis(reply.error)).toEqual({ policy: 'stream', reason: 'stream_exhausted' })
    expect(await idsIn(client, key)).toEqual(['foreign', 'e1', 'e2'])
    expect(await client.hgetall(headKey(key, LINEAGE))).toEqual({ ...reply.head, session: 'one', added: '3' })
  })

  it('keeps out the batches that were sent behind it', async () => {
    const client = await exhausted(1n)
    const replies = await Promise.all([one(client, ZERO_POSITION, 1, 2), one(client, at(2), 3, 4)])
    expect(replies.map(({ status, appended }) => [status, appended])).toEqual([
      ['ERROR', 1],
      ['BEHIND', 0],
    ])
    expect(await idsIn(client, key)).toEqual(['foreign', 'e1'])
  })

  it('adds no copy when it is tried again', async () => {
    const client = await exhausted(2n)
    await one(client, ZERO_POSITION, 1, 4)
    for (const previous of [ZERO_POSITION, at(1)]) {
      const reply = await one(client, previous, 1, 4)
      expect(reply).toMatchObject({ status: 'ERROR', head: { position: at(2) }, appended: 0, skipped: 2 })
    }
    expect(await idsIn(client, key)).toEqual(['foreign', 'e1', 'e2'])
  })

  it('is found behind the events that were there: appended and skipped point at it', async () => {
    const client = await exhausted(3n)
    await one(client, ZERO_POSITION, 1, 2)
    expect(await one(client, ZERO_POSITION, 1, 5)).toMatchObject({ status: 'ERROR', appended: 1, skipped: 2 })
    expect(await idsIn(client, key)).toEqual(['foreign', 'e1', 'e2', 'e3'])
  })
})
