import { expect } from 'vitest'
import { z } from 'zod'
import { deadKey } from '../../src/event/names.js'
import { defineEvent } from '../../src/index.js'
import { fieldsOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { leaveBehind, metricOf, pendingOf } from './watch.js'

const HappenedV2 = defineEvent({ ...Happened, version: 2, data: z.object({ n: z.number() }) })

const deadAfterAll = (env: ConsumerEnv, count = 1) =>
  until(async () => (await env.dead('things')).length === count && (await env.pending('things')) === 0, {
    message: () => `${count} dead letters and nothing pending`,
  })

test('a type that no handler takes is dead-lettered at once, and its neighbours are done', async ({ env }) => {
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  const [id] = await env.append('things', [{ n: 0 }], { type: 'thing.else' })
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  await deadAfterAll(env)
  const error = 'No handler of this group takes the type thing.else. Add one, or name it in skip.'
  expect(await env.dead('things')).toMatchObject([
    { id, type: 'thing.else', deadreason: 'unknown_type', deaderror: error, deadattempts: '0' },
  ])
  expect(await metricOf(consumer, 'dead_letters_total', { reason: 'unknown_type', type: 'unknown' })).toBe(1)
})

test('a handler that was never called gets an event behind many invalid ones at once, beside an idle stream', async ({
  env,
}) => {
  const consumer = env.consumer().on(Happened, effect)
  consumer.on({ ...Happened, stream: 'others', type: 'thing.other' }, effect)
  await env.append(
    'things',
    Array.from({ length: 300 }, (_, n) => ({ n: String(n) })),
  )
  await env.append('things', [{ n: 1 }])
  await consumer.start()
  const began = performance.now()
  await env.drained('things', 1)
  // Ten at a time are read. A read of the idle stream waits for a second.
  expect(performance.now() - began).toBeLessThan(15_000)
  expect(await env.dead('things')).toHaveLength(300)
})

test('dead letters that Redis refuses hold up no other event, and are written once when it takes them', async ({
  env,
}) => {
  await env.redis.set(deadKey('things', GROUP), 'not a stream')
  const consumer = env.consumer({ concurrency: 2 }).on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }, { n: 1 }, { n: 2 }], { type: 'thing.else' })
  await env.append('things', [{ n: 'x' }, { n: 'y' }, { n: 'z' }])
  for (let n = 0; n < 3; n++) await env.redis.xadd('things', '*', 'no', 'event')
  await env.append('things', [{ n: 7 }])
  await until(async () => (await env.effects()).length === 1)
  await until(async () => (await consumer.stats()).waiting === 9)
  const lines = env.logs.filter(({ msg }) => msg.startsWith('Redis refuses a dead letter'))
  expect(lines.map(({ reason }) => reason).sort()).toEqual(
    ['invalid_data', 'malformed', 'unknown_type'].flatMap((reason) => [reason, reason, reason]),
  )
  await env.redis.del(deadKey('things', GROUP))
  await deadAfterAll(env, 9)
  expect(await metricOf(consumer, 'dead_letters_total')).toBe(9)
})

test('a type that is named in skip is acknowledged, counted and not done', async ({ env }) => {
  const consumer = env.consumer({ skip: ['thing.else'] }).on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }], { type: 'thing.else' })
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(await env.dead('things')).toEqual([])
  expect(await metricOf(consumer, 'processed_total', { result: 'skipped', type: 'thing.else' })).toBe(1)
  expect((await env.pool.query('select from outrider.inbox')).rowCount).toBe(1)
})

test('a version below those that are handled is dead-lettered at once', async ({ env }) => {
  const consumer = env.consumer({ versionGrace: '1h' }).on(HappenedV2, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }])
  await deadAfterAll(env)
  expect(await env.dead('things')).toMatchObject([
    {
      deadreason: 'unknown_version',
      deaderror: 'Expected version 2 of thing.happened, found version 1.',
      deadattempts: '0',
    },
  ])
})

test('a newer version is offered until a newer worker comes, which does it', async ({ env }) => {
  const old = env.consumer({ versionGrace: '1h', concurrency: 1, prefetch: 1, claimAfter: '12s' }).on(Happened, effect)
  await old.start()
  await env.append('things', [{ n: 0 }], { version: 2 })
  await until(async () => ((await pendingOf(env.redis, 'things'))[0]?.idle ?? 0) >= 7_000)
  // It is in nobody's way.
  await env.append('things', [{ n: 1 }])
  await until(async () => (await env.effects()).length === 1)
  const attempts: number[] = []
  // Nothing is stale for them while the old one lives; and there are more of them, so that they get an offer sooner.
  for (let n = 0; n < 4; n++) {
    const next = env.consumer({ claimAfter: '8s' }).on(HappenedV2, async (event, context) => {
      attempts.push(context.attempt)
      await effect(event, context)
    })
    await next.start()
  }
  await env.drained('things', 2)
  expect(attempts).toEqual([1])
  expect(await env.dead('things')).toEqual([])
  await until(async () => (await env.redis.exists('outrider:{things}:retries:billing')) === 0)
})

test('thousands of events of a newer version keep no other event from being read', async ({ env }) => {
  const Other = defineEvent({ stream: 'others', type: 'thing.other', version: 1, data: z.object({ n: z.number() }) })
  const consumer = env.consumer({ versionGrace: '1h' }).on(Happened, effect).on(Other, effect)
  const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n }))
  for (let n = 0; n < 10_500; n += 3_500) await env.append('things', numbers(3_500), { version: 2 })
  await env.append('things', numbers(100))
  await consumer.start()
  await until(async () => (await env.effects()).length === 100)
  await env.append('others', numbers(100), { type: Other.type })
  await until(async () => (await env.effects()).length === 200)
  // They are pending for whichever worker comes, and held by none.
  await until(async () => (await env.pending('things')) === 10_500)
  await until(async () => (await metricOf(consumer, 'held')) < 200)
  expect(await env.dead('things')).toEqual([])
})

test('thousands of events of a newer version that are pending keep no idle handler of their stream from its events', async ({
  env,
}) => {
  const Other = defineEvent({ ...Happened, type: 'thing.other' })
  const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n }))
  for (let n = 0; n < 10_500; n += 3_500) await leaveBehind(env.redis, 'things', numbers(3_500), { version: 2 })
  await env.append('things', numbers(100))
  await env.append('things', numbers(100), { type: Other.type })
  await env.consumer({ versionGrace: '1h', claimAfter: '1h' }).on(Happened, effect).on(Other, effect).start()
  await until(async () => (await env.effects()).length === 200)
  expect(await env.dead('things')).toEqual([])
})

test('a newer version that no worker comes for is dead-lettered after versionGrace', async ({ env }) => {
  const consumer = env.consumer({ versionGrace: '1500ms' }).on(Happened, effect)
  await consumer.start()
  const began = performance.now()
  await env.append('things', [{ n: 0 }], { version: 3 })
  await deadAfterAll(env)
  expect(performance.now() - began).toBeGreaterThanOrEqual(1_450)
  expect(await env.dead('things')).toMatchObject([
    {
      deadreason: 'unknown_version',
      deaderror: 'Expected version 1 of thing.happened, found version 3.',
      deadattempts: '0',
    },
  ])
  expect(await env.redis.hkeys('outrider:{things}:retries:billing')).toEqual(['moved'])
})

test('versionGrace continues where the worker that waited was stopped', async ({ env }) => {
  const first = env.consumer({ versionGrace: '1h' }).on(Happened, effect)
  await first.start()
  await env.append('things', [{ n: 0 }], { version: 3 })
  const retries = 'outrider:{things}:retries:billing'
  const [entry = ''] = await until(async () => {
    const found = await env.redis.hkeys(retries)
    return found.length > 0 && found
  })
  await first.stop()
  expect(await pendingOf(env.redis, 'things')).toHaveLength(1)
  // As if the hour of the first worker were over in a second and a half. A new one would begin with the second worker.
  const known = JSON.parse((await env.redis.hget(retries, entry)) as string)
  const over = Date.now() + 1_500
  await env.redis.hset(retries, entry, JSON.stringify({ ...known, since: over - 3_600_000 }))
  await env.consumer({ versionGrace: '1h' }).on(Happened, effect).start()
  await deadAfterAll(env)
  expect(Date.now()).toBeGreaterThanOrEqual(over)
  expect(await env.dead('things')).toMatchObject([{ deadreason: 'unknown_version' }])
})

test('data that the schema refuses is dead-lettered at once, with the issues', async ({ env }) => {
  let calls = 0
  const consumer = env.consumer().on(Happened, () => {
    calls += 1
  })
  await consumer.start()
  await env.append('things', [{ n: 'one' }, {}])
  await deadAfterAll(env, 2)
  const dead = await env.dead('things')
  expect(dead.map(({ deadreason, deadattempts }) => [deadreason, deadattempts])).toEqual(
    Array(2).fill(['invalid_data', '0']),
  )
  for (const { deaderror } of dead) expect(deaderror).toMatch(/\bn\b.*expected number/i)
  expect(calls).toBe(0)
})

test('an entry that is no event is dead-lettered at once, with all its fields', async ({ env }) => {
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  const good = ['id', 'e', 'source', '/shop', 'type', Happened.type, 'time', '2026-01-01T00:00:00Z', 'data', '{"n":1}']
  const without = (name: string) =>
    good.flatMap((field, n) => (n % 2 === 0 && field !== name ? [field, good[n + 1] as string] : []))
  const cases: [fields: string[], error: string][] = [
    [without('id'), 'Expected a CloudEvent with the attribute id, found none'],
    [['hello', 'world'], 'Expected a CloudEvent with the attribute time, found none'],
    [without('source'), 'Expected a CloudEvent with the attribute source, found none'],
    [without('type'), 'Expected a CloudEvent with the attribute type, found none'],
    [without('time'), 'Expected a CloudEvent with the attribute time, found none'],
    [[...good, 'schemaversion', 'two'], 'Expected schemaversion as a whole number from 1, found something else'],
    [[...without('data'), 'data', '{"n":1'], 'Expected data as JSON, found text that is not JSON'],
  ]
  for (const [fields] of cases) await env.redis.xadd('things', '*', ...fields)
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  await deadAfterAll(env, cases.length)
  const dead = (await env.redis.xrange('outrider:{things}:dead:billing', '-', '+')).map(([, fields]) => fields)
  const own = (error: string) => ['deadreason', 'malformed', 'deaderror', error, 'deadattempts', '0', 'deadtime']
  const wanted = cases.map(([fields, error]) => [...fields, ...own(error)].join('\n'))
  expect(dead.map((fields) => fields.slice(0, -3).join('\n')).sort()).toEqual(wanted.sort())
})

test('an event older than the inbox window is dead-lettered, never run on a guess', async ({ env }) => {
  let calls = 0
  const consumer = env.consumer({ inboxWindow: '1h' }).on(Happened, async (event, context) => {
    calls += 1
    await effect(event, context)
  })
  await consumer.start()
  const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000)
  const [old] = await env.append('things', [{ n: 0 }], { time: ago(90) })
  await env.append('things', [{ n: 1 }], { time: ago(30) })
  // Of an own id it is the id that tells: its time is whatever the producer says.
  const made = (Date.now() - 90 * 60_000).toString(16).padStart(12, '0')
  const id = `${made.slice(0, 8)}-${made.slice(8)}-7000-8000-000000000000`
  await env.append('things', [{ n: 2 }], { id, time: new Date() })
  await env.drained('things', 1)
  await deadAfterAll(env, 2)
  const dead = await env.dead('things')
  expect(dead.map((letter) => letter.id).sort()).toEqual([old, id].sort())
  for (const { deadreason, deaderror } of dead) {
    expect([deadreason, deaderror]).toEqual(['expired', expect.stringContaining('found one of 1.5 hours')])
  }
  expect(calls).toBe(1)
})

test('an event older than the inbox window that the inbox still names is acknowledged as a duplicate', async ({
  env,
}) => {
  let calls = 0
  const Keyed = { ...Happened, type: 'thing.keyed' }
  const call = () => {
    calls += 1
  }
  const consumer = env.consumer({ inboxWindow: '1h' }).on(Happened, call)
  consumer.on(Keyed, call, { key: ({ data }) => `key ${data.n}` })
  const time = new Date(Date.now() - 90 * 60_000)
  const [done, keyed, other] = [
    ...(await env.append('things', [{ n: 0 }], { time })),
    ...(await env.append('things', [{ n: 1 }], { time, type: Keyed.type })),
    ...(await env.append('things', [{ n: 2 }], { time, type: Keyed.type })),
  ]
  const { source } = fieldsOf((await env.redis.xrange('things', '-', '+'))[0]![1])
  await env.pool.query(
    `insert into outrider.inbox (consumer_group, source, id)
     values ($1, $2, $3), ($1, 'urn:outrider:key', $4), ('another', $2, $5)`,
    [GROUP, source, done, `${Keyed.type} key 1`, other],
  )
  await consumer.start()
  await deadAfterAll(env)
  expect([keyed, await env.dead('things')]).toMatchObject([keyed, [{ id: other, deadreason: 'expired' }]])
  expect([calls, await metricOf(consumer, 'duplicates_total')]).toEqual([0, 2])
})

test('a schema that throws fails an attempt, and is not asked without end', async ({ env }) => {
  const fields = z.object({ n: z.number() }).transform(() => {
    throw new Error('the register of units cannot be read')
  })
  const Odd = defineEvent({ stream: 'things', type: 'thing.odd', version: 1, data: fields })
  const consumer = env
    .consumer({ maxAttempts: 3 })
    .on(Odd, () => {})
    .on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }], { type: Odd.type })
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(await env.dead('things')).toMatchObject([
    {
      ...{ deadreason: 'attempts_exhausted', deadattempts: '3' },
      deaderror: 'Error: the register of units cannot be read',
    },
  ])
})

test('an id or a key that Postgres cannot hold fails its event, and is not taken for an outage', async ({ env }) => {
  const long = Array.from({ length: 1_000 }, (_, n) => String.fromCharCode(0x4e00 + ((n * 7_919) % 20_000))).join('')
  const keys = ['a\0b', 'a\ud800', long]
  const key = ({ data }: { data: { n: number } }) => keys[data.n] ?? String(data.n)
  const one = env.consumer({ maxAttempts: 2 }).on(Happened, effect, { key })
  const batch = env.consumer({ maxAttempts: 2, group: 'shipping' }).onBatch(Happened, () => {}, { key })
  await one.start()
  await batch.start()
  await env.append(
    'things',
    Array.from({ length: 10 }, (_, n) => ({ n })),
  )
  await env.drained('things', 7)
  await until(async () => (await env.dead('things', 'shipping')).length === 3)
  for (const group of ['billing', 'shipping']) {
    const dead = await env.dead('things', group)
    expect(dead.map(({ deadreason }) => deadreason)).toEqual(Array(3).fill('attempts_exhausted'))
    for (const { deaderror } of dead) expect(deaderror).toContain('Expected key of thing.happened as well-formed text')
  }
  expect(await metricOf(one, 'retries_total', { reason: 'outage' })).toBe(0)
  expect(await metricOf(batch, 'retries_total', { reason: 'outage' })).toBe(0)
})
