import type { Redis as Client } from 'ioredis'
import { describe, expect, test } from 'vitest'
import { deadKey, retriesKey } from '../../src/event/names.js'
import { classifyRedisError } from '../../src/redis/client/errors.js'
import { needsProcess, type Redis, startRedis } from '../../testkit/services/index.js'
import { createGroupEnv, type GroupEnv, setAside } from './group-env.js'
import { GROUP } from './happened.js'

const KEY = 'things'
const DEAD = deadKey(KEY, GROUP)
const RETRIES = retriesKey(KEY, GROUP)

interface BuryEnv extends GroupEnv {
  server: Redis
  connect(options?: { username: string; password: string }): Client
  /** An entry that has failed once, in the hands of `one`. */
  failed(): Promise<string>
  /** Everything that a burial changes. */
  whole(): Promise<{ dead: string[][]; pending: [entry: string, consumer: string][]; retries: Record<string, string> }>
  /** The reason for which Redis refuses a burial by `one`. */
  refused(client: Client, id: string): Promise<string>
}

/** With a Redis of its own: the tests change its memory, users and role. */
const deadLetterTest = test.extend<{ env: BuryEnv }>({
  env: async ({ skip, onTestFinished }, use) => {
    needsProcess({ skip }, ['redis'])
    const server = await startRedis()
    onTestFinished(() => server.remove())
    const connect: BuryEnv['connect'] = (options) => {
      const client = server.client(options)
      onTestFinished(() => client.disconnect())
      return client
    }
    const group = await createGroupEnv(connect(), KEY)
    const { redis, one, pending, retries } = group
    await use({
      ...group,
      ...{ server, connect },
      async failed() {
        const id = (await redis.xadd(KEY, '*', ...FIELDS)) as string
        await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
        await one.recordFailure(redis, id, '{"attempts":1}')
        return id
      },
      whole: async () => ({
        dead:
          (await redis.type(DEAD)) === 'stream' ? (await redis.xrange(DEAD, '-', '+')).map(([, fields]) => fields) : [],
        pending: (await pending()).map(([entry, consumer]) => [entry, consumer]),
        retries: await retries(),
      }),
      refused: (client, id) =>
        one.deadLetter(client, { id, fields: FIELDS }, said(id)).then(
          (outcome) => `not refused: ${outcome}`,
          (error: Error) => classifyRedisError(error).reason,
        ),
    })
  },
})

const FIELDS = ['id', 'e1', 'data', '{}']
const said = (id: string) => ['deadreason', 'no stock', 'deadentry', id]
const letter = (id: string) => [...FIELDS, ...said(id)]

const alive = (id: string) => ({ dead: [], pending: [[id, 'one']], retries: { [id]: '{"attempts":1}' } })
const deadLettered = (id: string) => ({ dead: [letter(id)], pending: [], retries: {} })

deadLetterTest(
  'moves an entry with its fields, acknowledges it, and forgets its attempts; asked again, nothing changes',
  async ({ env }) => {
    const { redis, one, failed, whole } = env
    const id = await failed()
    expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    expect(await whole()).toEqual(deadLettered(id))
    expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    expect(await whole()).toEqual(deadLettered(id))
  },
)

deadLetterTest(
  'an entry that was trimmed, or is of a waiting stream, has one letter when the reply is lost and it is asked again',
  async ({ env }) => {
    const { redis, one, failed, whole } = env
    const trimmed = await failed()
    await redis.xdel(KEY, trimmed)
    const set = await failed()
    await setAside(one, redis, { id: set, fields: FIELDS }, 1, ['waiting-attempts', '1', 'waiting-entry', set])
    const waiting = (await one.waiting.takeDue(redis, 2, 1))?.taken[0]?.id as string
    for (let time = 0; time < 2; time++) {
      // More than a repeat could look through.
      for (let n = 0; n < 1_100; n++) await redis.xadd(DEAD, '*', 'deadentry', 'other')
      expect(await one.deadLetter(redis, { id: trimmed, fields: FIELDS }, said(trimmed))).toBe(true)
      expect(await one.waiting.deadLetter(redis, { id: waiting, fields: FIELDS }, said(set))).toBe(true)
    }
    const { dead } = await whole()
    expect(dead.filter((fields) => fields.length > 2)).toEqual([letter(trimmed), letter(set)])
  },
)

deadLetterTest('what another consumer has, or no consumer has any more, is left', async ({ env }) => {
  const { redis, one, two, failed, whole } = env
  const id = await failed()
  expect(await two.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(false)
  expect(await whole()).toEqual(alive(id))
  await one.acknowledge(redis, [id], [id])
  expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(false)
  expect(await whole()).toEqual({ dead: [], pending: [], retries: {} })
})

deadLetterTest(
  'an entry that was trimmed while it ran is in the dead letters, where its last copy is',
  async ({ env }) => {
    const { redis, one, failed, whole } = env
    const id = await failed()
    await redis.xdel(KEY, id)
    await one.heartbeat(redis, [id])
    expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    expect(await whole()).toEqual(deadLettered(id))
  },
)

deadLetterTest(
  'an entry that is gone is dead-lettered also when another worker has acknowledged it meanwhile',
  async ({ env }) => {
    const { redis, one, two, failed, whole } = env
    const id = await failed()
    await redis.xdel(KEY, id)
    expect((await two.claim(redis, 0, 10)).taken).toEqual([
      { id, deliveryCount: expect.any(Number), attempts: '', fields: undefined, size: 0 },
    ])
    expect(await one.startDelivery(redis, id)).toBe(true)
    expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    expect((await whole()).dead).toEqual(deadLettered(id).dead)
  },
)

describe('all or nothing', () => {
  deadLetterTest.for(['xpending', 'hdel', 'hset', 'xack', 'xadd'])(
    'for a user who may not %s: however often it is tried, there is one letter once he may',
    async (command, { env }) => {
      const { redis, one, connect, failed, whole, refused } = env
      const id = await failed()
      await redis.call('ACL', 'SETUSER', 'worker', 'on', '>secret', '~*', '+@all', `-${command}`)
      const client = connect({ username: 'worker', password: 'secret' })
      for (let attempt = 0; attempt < 3; attempt++) {
        expect(await refused(client, id)).toBe('redis_noperm')
        expect(await whole()).toEqual(alive(id))
      }
      await redis.call('ACL', 'SETUSER', 'worker', `+${command}`)
      expect(await one.deadLetter(client, { id, fields: FIELDS }, said(id))).toBe(true)
      expect(await whole()).toEqual(deadLettered(id))
    },
  )

  deadLetterTest('for a user who may not touch the key of the dead letters', async ({ env }) => {
    const { redis, connect, failed, whole, refused } = env
    const id = await failed()
    await redis.call('ACL', 'SETUSER', 'worker', 'on', '>secret', `~${KEY}`, `~${RETRIES}`, '+@all')
    const client = connect({ username: 'worker', password: 'secret' })
    for (let attempt = 0; attempt < 3; attempt++) expect(await refused(client, id)).toBe('redis_noperm')
    expect(await whole()).toEqual(alive(id))
  })

  deadLetterTest.for<[what: string, key: string]>([
    ['the dead letters', DEAD],
    ['the failed attempts', RETRIES],
  ])('where the key of %s holds another type', async ([, name], { env }) => {
    const { redis, one, failed, whole, refused } = env
    const id = await failed()
    const text = await redis.hget(RETRIES, id)
    await redis.del(name)
    await redis.set(name, 'a string')
    for (let attempt = 0; attempt < 3; attempt++) expect(await refused(redis, id)).toBe('wrong_type')
    await redis.del(name)
    await redis.hset(RETRIES, id, text as string)
    expect(await whole()).toEqual(alive(id))
    expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(true)
    expect(await whole()).toEqual(deadLettered(id))
  })

  deadLetterTest('where the ids of the dead letters are used up', async ({ env }) => {
    const { redis, failed, whole, refused } = env
    const id = await failed()
    const last = `${2n ** 64n - 1n}-${2n ** 64n - 1n}`
    await redis.xadd(DEAD, last, 'a', 'b')
    for (let attempt = 0; attempt < 3; attempt++) expect(await refused(redis, id)).toBe('stream_exhausted')
    expect(await whole()).toEqual({ ...alive(id), dead: [['a', 'b']] })
  })

  deadLetterTest('by a replica', async ({ env, onTestFinished }) => {
    const { one, failed, refused } = env
    const id = await failed()
    const replica = await startRedis()
    onTestFinished(() => replica.remove())
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
  deadLetterTest(
    'remembers no attempt, and lets no new holder in; what it refuses changes nothing',
    async ({ env }) => {
      const { server, redis, one, two, failed, whole } = env
      const id = await failed()
      await server.config('maxmemory', '1')
      await expect(one.recordFailure(redis, id, '{"attempts":2}')).rejects.toThrow(/^OOM/)
      await expect(two.readOrdered(redis, '1', 10, '-')).rejects.toThrow(/^OOM/)
      await server.config('maxmemory', '0')
      expect(await whole()).toEqual(alive(id))
    },
  )

  deadLetterTest(
    'still takes what makes room in a worker: acknowledgements, burials, releases, claims',
    async ({ env }) => {
      const { server, redis, one, two, failed, whole } = env
      const id = await failed()
      await server.config('maxmemory', '1')
      expect(await one.startDelivery(redis, id)).toBe(true)
      expect((await one.heartbeat(redis, [id])).lost).toEqual([])
      await one.release(redis, [{ id, uncounted: true }])
      expect((await two.claim(redis, 60_000, 10)).taken).toHaveLength(1)
      expect((await one.claim(redis, 0, 10)).taken).toHaveLength(1)
      expect(await one.deadLetter(redis, { id, fields: FIELDS }, said(id))).toBe(true)
      await server.config('maxmemory', '0')
      expect(await whole()).toEqual(deadLettered(id))
    },
  )
})

deadLetterTest(
  'an entry of as many fields as can be put back is deadLettered whole, a larger one as far as they go',
  async ({ env }) => {
    const { redis, one, whole } = env
    const fields = Array.from({ length: 5_000 }, (_, n) => [`field${n}`, 'x']).flat()
    for (const count of [7_000, 10_000]) {
      const id = (await redis.xadd(KEY, '*', ...fields.slice(0, count))) as string
      await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
      expect(await one.deadLetter(redis, { id, fields: fields.slice(0, count) }, said(id))).toBe(true)
      expect((await whole()).dead.at(-1)).toEqual([...fields.slice(0, 7_000), ...said(id)])
    }
  },
)

deadLetterTest('the fields are those of the entry to the byte, also where they are no text', async ({ env }) => {
  const { redis, one } = env
  const blob = Buffer.from([0xff, 0xfe, 0, 1, 0x80])
  const id = (await redis.xadd(KEY, '*', 'blob', blob)) as string
  await redis.xreadgroup('GROUP', GROUP, 'one', 'COUNT', 1, 'STREAMS', KEY, '>')
  expect(await one.deadLetter(redis, { id, fields: ['blob', blob.toString()] }, said(id))).toBe(true)
  const [[, deadLettered]] = (await redis.xrangeBuffer(DEAD, '-', '+')) as [[Buffer, Buffer[]]]
  expect(deadLettered[1]?.toString('hex')).toBe(blob.toString('hex'))
})
