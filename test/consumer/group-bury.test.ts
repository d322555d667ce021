import type { Redis as Client } from 'ioredis'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { deadKey, retriesKey } from '../../src/event/names.js'
import { classifyRedisError } from '../../src/redis/errors.js'
import { Group } from '../../src/redis/group.js'
import { needsProcess, type Redis, startRedis } from '../../testkit/services/index.js'
import { own } from '../support/own.js'

const KEY = 'things'
const GROUP = 'billing'
const DEAD = deadKey(KEY, GROUP)
const RETRIES = retriesKey(KEY, GROUP)
const one = new Group(KEY, GROUP, 'one')
const two = new Group(KEY, GROUP, 'two')

let server: Redis
let redis: Client

beforeEach(async (context) => {
  needsProcess(context, ['redis'])
  server = own(await startRedis())
  redis = connect()
  await one.create(redis, '0')
})

function connect(options?: { username: string; password: string }): Client {
  const client = server.client(options)
  onTestFinished(() => client.disconnect())
  return client
}

/** An entry that has failed once, in the hands of `one`. */
async function failed(): Promise<string> {
  const id = (await redis.xadd(KEY, '*', 'id', 'e1', 'data', '{}')) as string
  await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
  await one.fail(redis, id, '{"attempts":1}')
  return id
}

const FIELDS = ['id', 'e1', 'data', '{}']
const said = (id: string) => ['deadreason', 'no stock', 'deadentry', id]
const letter = (id: string) => [...FIELDS, ...said(id)]

/** Everything that a burial changes. */
const whole = async () => ({
  dead: (await redis.type(DEAD)) === 'stream' ? (await redis.xrange(DEAD, '-', '+')).map(([, fields]) => fields) : [],
  pending: ((await redis.xpending(KEY, GROUP, '-', '+', 10)) as unknown[][]).map(([entry, consumer]) => [
    entry,
    consumer,
  ]),
  retries: await redis.hgetall(RETRIES),
})

const alive = (id: string) => ({ dead: [], pending: [[id, 'one']], retries: { [id]: '{"attempts":1}' } })
const buried = (id: string) => ({ dead: [letter(id)], pending: [], retries: {} })

const refused = (client: Client, id: string) =>
  one.bury(client, { id, fields: FIELDS }, said(id)).then(
    (outcome) => `not refused: ${outcome}`,
    (error: Error) => classifyRedisError(error).reason,
  )

test('moves an entry with its fields, acknowledges it, and forgets its attempts; asked again, nothing', async () => {
  const id = await failed()
  expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(true)
  expect(await whole()).toEqual(buried(id))
  expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(false)
  expect(await whole()).toEqual(buried(id))
})

test('what another consumer has, or nobody has any more, is left', async () => {
  const id = await failed()
  expect(await two.bury(redis, { id, fields: FIELDS }, said(id))).toBe(false)
  expect(await whole()).toEqual(alive(id))
  await one.acknowledge(redis, [id], [id])
  expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(false)
  expect(await whole()).toEqual({ dead: [], pending: [], retries: {} })
})

test('an entry that was trimmed while it ran is in the dead letters, where its last copy is', async () => {
  const id = await failed()
  await redis.xdel(KEY, id)
  await one.beat(redis, [id])
  expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(true)
  expect(await whole()).toEqual(buried(id))
})

test('also when somebody has met it meanwhile, and has acknowledged it because it is gone', async () => {
  const id = await failed()
  await redis.xdel(KEY, id)
  expect(await two.claim(redis, 0, 10)).toEqual([
    { id, deliveries: expect.any(Number), attempts: '', fields: undefined },
  ])
  expect(await one.begin(redis, id)).toBe(true)
  expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(true)
  expect((await whole()).dead).toEqual(buried(id).dead)
})

describe('all or nothing', () => {
  test.each(['xpending', 'hdel', 'xack', 'xadd'])(
    'for a user who may not %s: however often it is tried, there is one letter once he may',
    async (command) => {
      const id = await failed()
      await redis.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+@all', `-${command}`)
      const client = connect({ username: 'worker', password: 'secret' })
      for (let attempt = 0; attempt < 3; attempt++) {
        expect(await refused(client, id)).toBe('redis_noperm')
        expect(await whole()).toEqual(alive(id))
      }
      await redis.call('ACL', 'SETUSER', 'worker', `+${command}`)
      expect(await one.bury(client, { id, fields: FIELDS }, said(id))).toBe(true)
      expect(await whole()).toEqual(buried(id))
    },
  )

  test('for a user who may not touch the key of the dead letters', async () => {
    const id = await failed()
    await redis.call('ACL', 'SETUSER', 'worker', 'on', '>secret', `~${KEY}`, `~${RETRIES}`, '+@all')
    const client = connect({ username: 'worker', password: 'secret' })
    for (let attempt = 0; attempt < 3; attempt++) expect(await refused(client, id)).toBe('redis_noperm')
    expect(await whole()).toEqual(alive(id))
  })

  test.each([
    ['the dead letters', DEAD],
    ['the failed attempts', RETRIES],
  ])('where the key of %s holds another type', async (_, name) => {
    const id = await failed()
    const text = await redis.hget(RETRIES, id)
    await redis.del(name)
    await redis.set(name, 'a string')
    for (let attempt = 0; attempt < 3; attempt++) expect(await refused(redis, id)).toBe('wrong_type')
    await redis.del(name)
    await redis.hset(RETRIES, id, text as string)
    expect(await whole()).toEqual(alive(id))
    expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    expect(await whole()).toEqual(buried(id))
  })

  test('where the ids of the dead letters are used up', async () => {
    const id = await failed()
    const last = `${2n ** 64n - 1n}-${2n ** 64n - 1n}`
    await redis.xadd(DEAD, last, 'a', 'b')
    for (let attempt = 0; attempt < 3; attempt++) expect(await refused(redis, id)).toBe('stream_exhausted')
    expect(await whole()).toEqual({ ...alive(id), dead: [['a', 'b']] })
  })

  test('by a replica', async () => {
    const id = await failed()
    const replica = own(await startRedis())
    const client = replica.client()
    onTestFinished(() => client.disconnect())
    await one.create(client, '0')
    await client.xadd(KEY, id, 'id', 'e1', 'data', '{}')
    await client.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
    await client.replicaof('127.0.0.1', '1')
    expect(await refused(client, id)).toBe('redis_readonly')
    expect([await client.exists(DEAD), ((await client.xpending(KEY, GROUP)) as unknown[])[0]]).toEqual([0, 1])
  })
})

describe('a Redis whose memory is full', () => {
  test('remembers no attempt, and lets no new holder in; what it refuses changes nothing', async () => {
    const id = await failed()
    await server.config('maxmemory', '1')
    await expect(one.fail(redis, id, '{"attempts":2}')).rejects.toThrow(/^OOM/)
    await expect(two.take(redis, '1', 10, '-')).rejects.toThrow(/^OOM/)
    await server.config('maxmemory', '0')
    expect(await whole()).toEqual(alive(id))
  })

  test('still takes what makes room in a worker: acknowledgements, burials, releases, claims', async () => {
    const id = await failed()
    await server.config('maxmemory', '1')
    expect(await one.begin(redis, id)).toBe(true)
    expect(await one.beat(redis, [id])).toEqual([])
    await one.release(redis, [{ id, uncounted: true }])
    expect(await two.claim(redis, 60_000, 10)).toHaveLength(1)
    expect(await one.claim(redis, 0, 10)).toHaveLength(1)
    expect(await one.bury(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    await server.config('maxmemory', '0')
    expect(await whole()).toEqual(buried(id))
  })
})

test('an entry of as many fields as can be put back is buried whole, a larger one as far as they go', async () => {
  const fields = Array.from({ length: 5_000 }, (_, n) => [`field${n}`, 'x']).flat()
  for (const count of [7_000, 10_000]) {
    const id = (await redis.xadd(KEY, '*', ...fields.slice(0, count))) as string
    await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
    expect(await one.bury(redis, { id, fields: fields.slice(0, count) }, said(id))).toBe(true)
    expect((await whole()).dead.at(-1)).toEqual([...fields.slice(0, 7_000), ...said(id)])
  }
})

test('the fields are those of the entry to the byte, also where they are no text', async () => {
  const blob = Buffer.from([0xff, 0xfe, 0, 1, 0x80])
  const id = (await redis.xadd(KEY, '*', 'blob', blob)) as string
  await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
  expect(await one.bury(redis, { id, fields: ['blob', blob.toString()] }, said(id))).toBe(true)
  const [[, buried]] = (await redis.xrangeBuffer(DEAD, '-', '+')) as [[Buffer, Buffer[]]]
  expect(buried[1]?.toString('hex')).toBe(blob.toString('hex'))
})
