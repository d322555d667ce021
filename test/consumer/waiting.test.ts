import { describe, expect } from 'vitest'
import { Retry } from '../../src/consumer/index.js'
import { retriesKey, waitingDueKey, waitingKey, waitingRetriesKey } from '../../src/event/names.js'
import { classifyRedisError } from '../../src/redis/errors.js'
import { Group } from '../../src/redis/group.js'
import { fieldsOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { groupTest } from './group-env.js'
import { GROUP, Happened } from './happened.js'
import { metricOf } from './watch.js'

const WAITING = waitingKey('things', GROUP)
const DUE = waitingDueKey('things', GROUP)

const waiting = async ({ redis }: ConsumerEnv) =>
  (await redis.xrange(WAITING, '-', '+')).map(([, fields]) => fieldsOf(fields))

/** Lets the time of every next attempt come. */
async function makeDue({ redis }: Pick<ConsumerEnv, 'redis'>): Promise<void> {
  for (const id of await redis.zrange(DUE, '0', '-1')) await redis.zadd(DUE, 'XX', 1, id)
}

/** Nothing is left of what waited. */
async function expectNothingLeft({ redis }: ConsumerEnv): Promise<void> {
  await until(async () => (await redis.xlen(WAITING)) === 0)
  expect((await redis.xpending(WAITING, GROUP))[0]).toBe(0)
  expect(await redis.exists(DUE, waitingRetriesKey('things', GROUP), retriesKey('things', GROUP))).toBe(0)
}

test('what is tried again in more than ten minutes leaves the stream, and is done once when it is due', async ({
  env,
}) => {
  const attempts: number[] = []
  const consumer = env
    .consumer({ claimAfter: '400ms', backoff: () => '11m' })
    .on(Happened, async (event, { tx, attempt }) => {
      attempts.push(attempt)
      if (attempt === 1) throw new Error('503 of postgres://me:secret@card/service')
      if (attempt === 2) throw new Retry({ after: '20m' })
      await effect(event, { tx })
    })
  await consumer.start()
  const [id] = await env.append('things', [{ n: 1 }], { subject: 's1' })
  await until(async () => (await waiting(env)).length === 1)
  const [entry] = (await env.redis.xrange('things', '-', '+')) as [[string, string[]]]
  const [set] = await waiting(env)
  expect(set).toMatchObject({ ...fieldsOf(entry[1]), 'waiting-attempts': '1', 'waiting-entry': entry[0] })
  expect(set?.['waiting-error']).toBe('Error: 503 of postgres://me:***@card/service')
  expect(Date.parse(set?.['waiting-due'] ?? '') - Date.now()).toBeGreaterThan(10 * 60_000)
  // It holds up no trimming, and this worker does not keep it.
  expect(await env.pending('things')).toBe(0)
  await until(async () => (await consumer.stats()).waiting === 0)
  await until(async () => (await metricOf(consumer, 'set_aside', { stream: 'things' })) === 1)
  await makeDue(env)
  await until(async () => attempts.length === 2)
  await until(async () => (await waiting(env))[0]?.['waiting-attempts'] === '2')
  await makeDue(env)
  await until(async () => (await env.effects()).length === 1)
  expect(attempts).toEqual([1, 2, 3])
  expect(await env.effects()).toMatchObject([{ event: id, n: 1, subject: 's1' }])
  await expectNothingLeft(env)
  expect(await metricOf(consumer, 'processed_total', { stream: 'things', result: 'done' })).toBe(1)
})

test('a worker that is gone between taking, effect and removal leaves one effect', async ({ env }) => {
  let failing = true
  const ids = await env.append('things', [{ n: 0 }, { n: 1 }])
  const handler = async (...[event, { tx }]: Parameters<typeof effect>) => {
    if (failing) throw new Error('not yet')
    await effect(event, { tx })
  }
  const first = env.consumer({ claimAfter: '400ms', backoff: () => '11m' }).on(Happened, handler)
  await first.start()
  await until(async () => (await waiting(env)).length === 2)
  await first.stop()
  failing = false
  // As a worker that was killed: it took both, and committed the effect of one.
  await makeDue(env)
  const ghost = new Group('things', GROUP, 'ghost').waiting
  expect((await ghost.due(env.redis, Date.now(), 10))?.taken).toHaveLength(2)
  expect((await ghost.due(env.redis, Date.now(), 10))?.taken).toEqual([])
  await env.pool.query("select outrider.accept($1, '/shop', $2)", [GROUP, ids[0]])
  await env.consumer({ claimAfter: '400ms' }).on(Happened, handler).start()
  await until(async () => (await env.effects()).length === 1)
  await expectNothingLeft(env)
  expect((await env.effects()).map(({ event }) => event)).toEqual([ids[1]])
})

test('in an ordered group it stays in the stream, and what was set aside before is done', async ({ env }) => {
  let failing = true
  const handler = async (...[event, { tx }]: Parameters<typeof effect>) => {
    if (failing) throw new Error('not yet')
    await effect(event, { tx })
  }
  const first = env.consumer({ claimAfter: '400ms', backoff: () => '11m' }).on(Happened, handler)
  await first.start()
  await env.append('things', [{ n: 0 }])
  await until(async () => (await waiting(env)).length === 1)
  await first.stop()
  const ordered = env.consumer({ ordered: true, claimAfter: '400ms', backoff: () => '11m' }).on(Happened, handler)
  await ordered.start()
  await env.append('things', [{ n: 1 }], { subject: 's1' })
  await until(async () => (await ordered.stats()).waiting === 1)
  expect(await env.pending('things')).toBe(1)
  failing = false
  await makeDue(env)
  await until(async () => (await env.effects()).length === 1)
  await until(async () => (await env.redis.xlen(WAITING)) === 0)
  expect((await env.effects()).map(({ n }) => n)).toEqual([0])
})

test('when its time is over it is a dead letter, with its first entry and without the fields of its wait', async ({
  env,
}) => {
  const consumer = env
    .consumer({ claimAfter: '400ms', retryFor: '12m', backoff: () => '11m', maxAttempts: 2 })
    .on(Happened, () => {
      throw new Error('never')
    })
  await consumer.start()
  const [id] = await env.append('things', [{ n: 1 }])
  await until(async () => (await waiting(env)).length === 1)
  await makeDue(env)
  await until(async () => (await env.dead('things')).length === 1)
  const [[entry, fields]] = (await env.redis.xrange('things', '-', '+')) as [[string, string[]]]
  const [letter] = await env.dead('things')
  expect(letter).toEqual({
    ...fieldsOf(fields),
    ...{ id, deadreason: 'attempts_exhausted', deaderror: 'Error: never', deadattempts: '2', deadentry: entry },
    deadtime: expect.any(String),
  })
  await expectNothingLeft(env)
})

describe('all or nothing', () => {
  groupTest.for(['xgroup|create', 'xdel', 'zadd', 'zrem', 'xadd', 'xack'])(
    'a worker that may not %s keeps the entry, and leaves nothing behind',
    async (command, { env }) => {
      const { redis, key, one, given, pending } = env
      const [id] = (await given(one, 1)) as [string]
      await redis.call('ACL', 'SETUSER', 'worker', 'reset', 'on', '>secret', '~*', '+@all', `-${command}`)
      const client = redis.duplicate({ username: 'worker', password: 'secret' })
      const move = () => one.wait(client, { id, fields: ['n', '0'] }, 5, ['waiting-attempts', '1'])
      const refused = async () => classifyRedisError(await move().catch((error: unknown) => error)).reason
      for (let n = 0; n < 2; n++) expect(await refused()).toBe('redis_noperm')
      expect(await pending()).toEqual([[id, 'one', 1]])
      expect(await redis.xlen(waitingKey(key, GROUP))).toBe(0)
      expect(await redis.zcard(waitingDueKey(key, GROUP))).toBe(0)
      await redis.call('ACL', 'SETUSER', 'worker', `+${command}`)
      expect(await move()).toBe(true)
      expect(await move()).toBe(false)
      expect(await pending()).toEqual([])
      expect(await redis.zrange(waitingDueKey(key, GROUP), '0', '-1', 'WITHSCORES')).toMatchObject([
        expect.any(String),
        '5',
      ])
      client.disconnect()
    },
  )
})

groupTest('what is done is acknowledged and removed in one, with what is known of its attempts', async ({ env }) => {
  const { redis, key, one, given } = env
  const [id] = (await given(one, 1)) as [string]
  await one.wait(redis, { id, fields: ['n', '0'] }, 5, ['waiting-attempts', '1'])
  const due = await one.waiting.due(redis, 10, 1)
  const [taken] = due?.taken ?? []
  await one.waiting.fail(redis, taken?.id as string, '1')
  await redis.call('ACL', 'SETUSER', 'worker', 'reset', 'on', '>secret', '~*', '+@all', '-xack', '-xdel')
  const client = redis.duplicate({ username: 'worker', password: 'secret' })
  await expect(one.waiting.acknowledge(client, [taken?.id as string], [])).rejects.toThrow()
  expect((await redis.xpending(waitingKey(key, GROUP), GROUP))[0]).toBe(1)
  await one.waiting.acknowledge(redis, [taken?.id as string], [])
  expect((await redis.xpending(waitingKey(key, GROUP), GROUP))[0]).toBe(0)
  expect(await redis.xlen(waitingKey(key, GROUP))).toBe(0)
  expect(await redis.exists(waitingRetriesKey(key, GROUP))).toBe(0)
  client.disconnect()
})
