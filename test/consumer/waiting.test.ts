import { describe, expect } from 'vitest'
import { Retry } from '../../src/consumer/index.js'
import {
  deadKey,
  retriesKey,
  waitingDueKey,
  waitingKey,
  waitingRetriesKey,
  waitingSinceKey,
} from '../../src/event/names.js'
import { classifyRedisError } from '../../src/redis/client/errors.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { fieldsOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { groupTest, setAside } from './group-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf } from './watch.js'

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
  expect(await redis.exists(DUE, waitingSinceKey('things', GROUP))).toBe(0)
  for (const key of [waitingRetriesKey('things', GROUP), retriesKey('things', GROUP)])
    expect((await redis.hkeys(key)).filter((field) => field !== 'moved')).toEqual([])
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

test('events that are claimed before they are due wait, and what is more of them is set aside, until then', async ({
  env,
}) => {
  const began = new Map<number, number>()
  const consumer = env.consumer({ claimAfter: '200ms' }).on(Happened, async (event, context) => {
    began.set(event.data.n, Date.now())
    await effect(event, context)
  })
  // Of each of so many handlers a worker holds fewer that wait.
  for (let n = 0; n < 100; n++) consumer.on({ ...Happened, stream: 'others', type: `thing.${n}` }, effect)
  const entries = await leaveBehind(
    env.redis,
    'things',
    Array.from({ length: 60 }, (_, n) => ({ n })),
  )
  const ghost = new ConsumerGroup('things', GROUP, 'ghost')
  const due = Date.now() + 10_000
  const failed = JSON.stringify({ attempts: 1, failingSince: Date.now(), due })
  for (const id of entries) await ghost.recordFailure(env.redis, id, failed)
  await consumer.start()
  const isAside = async () => {
    const [pending, aside] = [await env.pending('things'), await env.redis.xlen(WAITING)]
    return aside > 0 && pending + aside === 60 && (await consumer.stats()).waiting === pending
  }
  await until(isAside)
  expect(began.size).toBe(0)
  await until(async () => (await env.effects()).length === 60)
  expect(Math.min(...began.values())).toBeGreaterThanOrEqual(due)
  await expectNothingLeft(env)
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
  const ghost = new ConsumerGroup('things', GROUP, 'ghost').waiting
  expect((await ghost.takeDue(env.redis, Date.now(), 10))?.taken).toHaveLength(2)
  expect((await ghost.takeDue(env.redis, Date.now(), 10))?.taken).toEqual([])
  await env.pool.query("select outrider.accept($1, '/shop', $2)", [GROUP, ids[0]])
  await env.consumer({ claimAfter: '400ms' }).on(Happened, handler).start()
  await until(async () => (await env.effects()).length === 1)
  await expectNothingLeft(env)
  expect((await env.effects()).map(({ event }) => event)).toEqual([ids[1]])
})

test('what a consumer had taken that was removed from the waiting group, or the group itself, is done', async ({
  env,
}) => {
  let failing = true
  const handler = async (...[event, { tx }]: Parameters<typeof effect>) => {
    if (failing) throw new Error('not yet')
    await effect(event, { tx })
  }
  await env.append('things', [{ n: 0 }, { n: 1 }, { n: 2 }])
  const first = env.consumer({ claimAfter: '400ms', backoff: () => '11m' }).on(Happened, handler)
  await first.start()
  await until(async () => (await waiting(env)).length === 3)
  await first.stop()
  failing = false
  const ghost = new ConsumerGroup('things', GROUP, 'ghost').waiting
  const take = () => ghost.takeDue(env.redis, Date.now(), 1)
  await makeDue(env)
  await take()
  expect(await env.redis.xgroup('DESTROY', WAITING, GROUP)).toBe(1)
  await env.redis.xgroup('CREATE', WAITING, GROUP, '0')
  await env.redis.xclaim(WAITING, GROUP, 'ghost', 0, (await env.redis.zrange(DUE, '0', '0'))[0] as string, 'FORCE')
  await env.redis.zremrangebyrank(DUE, '0', '0')
  expect(await env.redis.xgroup('DELCONSUMER', WAITING, GROUP, 'ghost')).toBe(1)
  const consumer = env.consumer({ claimAfter: '400ms' }).on(Happened, handler)
  await consumer.start()
  await until(async () => (await env.effects()).length === 3)
  await expectNothingLeft(env)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([0, 1, 2])
})

groupTest('lost entries of a waiting stream are found in turn, and none that waits or is pending', async ({ env }) => {
  const { redis, key, one, two } = env
  const [WAITING, DUE] = [waitingKey(key, GROUP), waitingDueKey(key, GROUP)]
  await redis.xgroup('CREATE', WAITING, GROUP, '0', 'MKSTREAM')
  const ids: string[] = []
  for (let n = 1; n <= 2_500; n++) ids.push((await redis.xadd(WAITING, `${n}-0`, 'n', String(n))) as string)
  for (const id of ids) await redis.zadd(DUE, id === '7-0' ? 1 : 100, id)
  expect((await two.waiting.takeDue(redis, 1, 10))?.taken.map(({ id }) => id)).toEqual(['7-0'])
  // Only these are lost: the rest waits, and one is pending.
  const lost = [ids[0], ids[1_500], ids[2_499]] as string[]
  await redis.zrem(DUE, ...lost)
  let from = '-'
  const found: string[][] = []
  for (let n = 0; n < 4; n++) {
    const due = await one.waiting.takeDue(redis, 50, 10, from)
    expect(due?.waiting).toBe(Math.min(2_500, 2_498 + n))
    found.push(due?.taken.map(({ id }) => id) ?? [])
    from = due?.searchFrom ?? ''
  }
  expect(found).toEqual([[lost[0]], [lost[1]], [lost[2]], []])
  expect(await redis.zcard(DUE)).toBe(2_496)
})

groupTest('large entries that are due, or lost, are read a few at a time', async ({ env }) => {
  const { redis, key, one } = env
  const [WAITING, DUE] = [waitingKey(key, GROUP), waitingDueKey(key, GROUP)]
  await redis.xgroup('CREATE', WAITING, GROUP, '0', 'MKSTREAM')
  const large = 'x'.repeat(2 ** 20)
  for (let n = 1; n <= 20; n++) await redis.xadd(WAITING, `${n}-0`, 'data', large)
  // The first ten wait; the others are lost.
  for (let n = 1; n <= 10; n++) await redis.zadd(DUE, 1, `${n}-0`)
  const look = async (most: number, from?: string) => {
    const due = await one.waiting.takeDue(redis, 1, most, from)
    return { taken: due?.taken.map(({ id }) => id).length, more: due?.more, from: due?.searchFrom }
  }
  expect(await look(100)).toEqual({ taken: 8, more: true, from: '(8-0' })
  expect(await redis.zcard(DUE)).toBe(2)
  expect(await look(1, '(8-0')).toEqual({ taken: 1, more: false, from: '(16-0' })
})

groupTest('a waiting group that was destroyed is created again, with what it had', async ({ env }) => {
  const { redis, key, one, given } = env
  const [id] = (await given(one, 1)) as [string]
  await setAside(one, redis, { id, fields: ['n', '0'] }, 5, ['waiting-attempts', '1'])
  await redis.xgroup('DESTROY', waitingKey(key, GROUP), GROUP)
  expect((await one.waiting.takeDue(redis, 4, 1))?.waiting).toBe(1)
  expect((await one.waiting.takeDue(redis, 5, 1))?.taken).toHaveLength(1)
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

test('in an ordered group with two handlers, what was set aside before costs nothing of the order', async ({ env }) => {
  const Other = { ...Happened, type: 'thing.other' }
  const failing = env.consumer({ backoff: () => '11m' }).on(Happened, () => {
    throw new Error('not yet')
  })
  await failing.start()
  await env.append('things', [{ n: 100 }])
  await until(async () => (await waiting(env)).length === 1)
  await failing.stop()
  const gate = new Gate()
  const ordered = env
    .consumer({ ordered: true, concurrency: 1, claimAfter: '1m' })
    .on(Happened, async (event, context) => {
      await gate.passed(context.signal)
      await effect(event, context)
    })
    .on(Other, effect)
  await ordered.start()
  for (let n = 0; n < 20; n++) await env.append('things', [{ n }, { n: n + 20 }], { subject: `s${n}` })
  await until(async () => (await ordered.stats()).queued === 39)
  await makeDue(env)
  await until(async () => (await env.redis.zcard(DUE)) === 0)
  gate.open()
  await env.drained('things', 41)
  const done = await env.effects()
  for (let n = 0; n < 20; n++) {
    expect(done.filter(({ subject }) => subject === `s${n}`)).toMatchObject([{ n }, { n: n + 20 }])
  }
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
  groupTest.for(['xgroup|create', 'xdel', 'zadd', 'zrem', 'xadd', 'xack', 'hset', 'hget'])(
    'a worker that may not %s keeps the entry, and leaves nothing behind',
    async (command, { env }) => {
      const { redis, key, one, given, pending } = env
      const [id] = (await given(one, 1)) as [string]
      await redis.call('ACL', 'SETUSER', 'worker', 'reset', 'on', '>secret', '~*', '+@all', `-${command}`)
      const client = redis.duplicate({ username: 'worker', password: 'secret' })
      const move = () => setAside(one, client, { id, fields: ['n', '0'] }, 5, ['waiting-attempts', '1'])
      const refused = async () => classifyRedisError(await move().catch((error: unknown) => error)).reason
      for (let n = 0; n < 2; n++) expect(await refused()).toBe('redis_noperm')
      expect(await pending()).toEqual([[id, 'one', 1]])
      expect(await redis.xlen(waitingKey(key, GROUP))).toBe(0)
      expect(await redis.zcard(waitingDueKey(key, GROUP))).toBe(0)
      await redis.call('ACL', 'SETUSER', 'worker', `+${command}`)
      expect(await move()).toBe(true)
      expect(await move()).toBe(true)
      expect(await pending()).toEqual([])
      expect(await redis.zrange(waitingDueKey(key, GROUP), '0', '-1', 'WITHSCORES')).toMatchObject([
        expect.any(String),
        '5',
      ])
      client.disconnect()
    },
  )
})

groupTest('an entry is set aside once, though the reply is lost and it is asked again', async ({ env }) => {
  const { redis, key, one, two, given } = env
  const [plain, trimmed] = (await given(one, 2)) as [string, string]
  await redis.xdel(key, trimmed)
  const fields = ['n', '0']
  const moved = (id: string) => setAside(one, redis, { id, fields }, 5, ['waiting-attempts', '1'])
  const waits = async () => (await redis.xrange(waitingKey(key, GROUP), '-', '+')).map(([id]) => id)
  for (const id of [plain, plain, trimmed, trimmed]) expect(await moved(id)).toBe(true)
  const [first, second] = (await waits()) as [string, string]
  expect(await waits()).toEqual([first, second])
  await one.waiting.takeDue(redis, 5, 2)
  for (let time = 0; time < 2; time++)
    expect(await setAside(one.waiting, redis, { id: first, fields }, 9, ['waiting-attempts', '2'])).toBe(true)
  expect(await waits()).toHaveLength(2)
  // What another worker has done is not there any more: it is neither set aside nor dead-lettered again.
  await two.waiting.claim(redis, 0, 1)
  await two.waiting.acknowledge(redis, [second], [])
  expect(await setAside(one.waiting, redis, { id: second, fields }, 9, ['waiting-attempts', '2'])).toBe(false)
  expect(await one.waiting.deadLetter(redis, { id: second, fields }, ['deadreason', 'never'])).toBe(false)
  expect(await waits()).toHaveLength(1)
  expect(await redis.exists(deadKey(key, GROUP))).toBe(0)
})

groupTest(
  'tells since when the one fails that fails longest, wherever it is in the waiting stream',
  async ({ env }) => {
    const { redis, key, one, given } = env
    const since = async () => (await one.waiting.takeDue(redis, 1, 0))?.since
    const failing = async (group: ConsumerGroup, id: string, failed: number) =>
      setAside(group, redis, { id, fields: ['n', '0'] }, 5, ['waiting-attempts', '1', 'waiting-since', String(failed)])
    const ids = (await given(one, 3)) as [string, string, string]
    await failing(one, ids[0], 0)
    expect(await since()).toBe(0)
    await failing(one, ids[1], 1_700_000_000_500)
    await failing(one, ids[2], 1_700_000_000_400)
    expect(await since()).toBe(1_700_000_000_400)
    const taken = (await one.waiting.takeDue(redis, 5, 3))?.taken.map(({ id }) => id) as [string, string, string]
    expect(await since()).toBe(1_700_000_000_400)
    await failing(one.waiting, taken[2], 1_700_000_000_400)
    await one.waiting.acknowledge(redis, [taken[0]], [])
    await redis.xdel(
      waitingKey(key, GROUP),
      (await redis.xrange(waitingKey(key, GROUP), '-', '+')).at(-1)?.[0] as string,
    )
    expect(await since()).toBe(1_700_000_000_500)
    await one.waiting.deadLetter(redis, { id: taken[1], fields: undefined }, ['deadreason', 'never'])
    expect(await since()).toBe(0)
    expect(await redis.exists(waitingSinceKey(key, GROUP))).toBe(0)
  },
)

groupTest('what is done is acknowledged and removed in one, with what is known of its attempts', async ({ env }) => {
  const { redis, key, one, given } = env
  const [id] = (await given(one, 1)) as [string]
  await setAside(one, redis, { id, fields: ['n', '0'] }, 5, ['waiting-attempts', '1'])
  const due = await one.waiting.takeDue(redis, 10, 1)
  const [taken] = due?.taken ?? []
  await one.waiting.recordFailure(redis, taken?.id as string, '1')
  await redis.call('ACL', 'SETUSER', 'worker', 'reset', 'on', '>secret', '~*', '+@all', '-xack', '-xdel')
  const client = redis.duplicate({ username: 'worker', password: 'secret' })
  await expect(one.waiting.acknowledge(client, [taken?.id as string], [])).rejects.toThrow()
  expect((await redis.xpending(waitingKey(key, GROUP), GROUP))[0]).toBe(1)
  await one.waiting.acknowledge(redis, [taken?.id as string], [])
  expect((await redis.xpending(waitingKey(key, GROUP), GROUP))[0]).toBe(0)
  expect(await redis.xlen(waitingKey(key, GROUP))).toBe(0)
  expect(await redis.hkeys(waitingRetriesKey(key, GROUP))).toEqual([])
  client.disconnect()
})
