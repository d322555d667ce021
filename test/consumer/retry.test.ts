import { expect } from 'vitest'
import { DeadLetter, Retry } from '../../src/consumer/index.js'
import { until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { metricOf, pendingOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

test('a handler that throws is called again, is told which attempt it is, and leaves nothing of those before', async ({
  env,
}) => {
  const attempts: number[] = []
  const paused: number[] = []
  const backoff = (failed: number) => {
    paused.push(failed)
    return 20
  }
  const consumer = env.consumer({ backoff }).on(Happened, async (event, context) => {
    attempts.push(context.attempt)
    await effect(event, context)
    if (context.attempt < 4) throw new Error('not yet')
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(attempts).toEqual([1, 2, 3, 4])
  expect(paused).toEqual([1, 2, 3])
  expect(await env.effects()).toHaveLength(1)
  expect(await env.dead('things')).toEqual([])
  expect(await env.redis.exists('outrider:{things}:retries:billing')).toBe(0)
  expect(await metricOf(consumer, 'retries_total', { reason: 'failed' })).toBe(3)
})

test('after maxAttempts an event is dead-lettered with all that it was, to the byte', async ({ env }) => {
  const consumer = env.consumer({ maxAttempts: 3 }).on(Happened, () => {
    throw new Error('no stock', { cause: new TypeError('at postgres://me:secret@db/shop') })
  })
  await consumer.start()
  const data = '{"n":  1, "é": "\\u0000 \\ud83d\\ude00",\n"big": 12345678901234567890.10}'
  const fields = ['specversion', '1.0', 'id', 'e-1', 'source', '/shop', 'type', Happened.type, 'subject', 's 1']
  fields.push('time', new Date().toISOString().replace('Z', '123Z'), 'schemaversion', '1', 'correlationid', 'c-1')
  fields.push('traceparent', '00-ab', 'sequence', '00-7', 'datacontenttype', 'application/json', 'data', data)
  const entry = await env.redis.xadd('things', '*', ...fields)
  const before = Date.now()
  await until(async () => (await env.dead('things')).length === 1)
  const [[, dead]] = (await env.redis.xrange('outrider:{things}:dead:billing', '-', '+')) as [[string, string[]]]
  expect(dead.slice(0, fields.length)).toEqual(fields)
  const time = dead.at(-3) as string
  expect(dead.slice(fields.length)).toEqual([
    ...['deadreason', 'attempts_exhausted'],
    ...['deaderror', 'Error: no stock; caused by TypeError: at postgres://me:***@db/shop'],
    ...['deadattempts', '3', 'deadtime', time, 'deadentry', entry],
  ])
  expect(new Date(time).toISOString()).toBe(time)
  expect(Math.abs(Date.parse(time) - before)).toBeLessThan(30_000)
  expect(await env.pending('things')).toBe(0)
  expect(await env.redis.hkeys('outrider:{things}:retries:billing')).toEqual(['moved'])
  expect(await metricOf(consumer, 'dead_letters_total', { reason: 'attempts_exhausted' })).toBe(1)
})

test('a handler has its own maxAttempts and backoff', async ({ env }) => {
  let calls = 0
  const handler = () => {
    calls += 1
    throw new Error('never')
  }
  const own = { maxAttempts: 2, backoff: () => 0 }
  const consumer = env.consumer({ maxAttempts: 1_000, backoff: () => '9m' }).on(Happened, handler, own)
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await until(async () => (await env.dead('things')).length === 1)
  expect(calls).toBe(2)
})

test('Retry says when, whatever the backoff would be, and counts as an attempt', async ({ env }) => {
  const times: number[] = []
  const consumer = env.consumer({ maxAttempts: 2, backoff: () => '9m' }).on(Happened, () => {
    times.push(performance.now())
    throw new Retry({ after: '700ms' })
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await until(async () => (await env.dead('things')).length === 1)
  expect(times).toHaveLength(2)
  expect((times[1] as number) - (times[0] as number)).toBeGreaterThanOrEqual(690)
  expect(await env.dead('things')).toMatchObject([{ deadreason: 'attempts_exhausted', deadattempts: '2' }])
})

test('DeadLetter ends an event at its first attempt, with its reason', async ({ env }) => {
  let calls = 0
  const consumer = env.consumer().on(Happened, async (event, context) => {
    calls += 1
    await effect(event, context)
    throw new DeadLetter('no such customer', { cause: new Error('404') })
  })
  await consumer.start()
  const [id] = await env.append('things', [{ n: 1 }])
  await until(async () => (await env.dead('things')).length === 1)
  expect(await env.dead('things')).toMatchObject([
    { id, deadreason: 'no such customer', deaderror: 'Error: 404', deadattempts: '1' },
  ])
  expect(calls).toBe(1)
  expect(await env.effects()).toEqual([])
  // Words of the team's own would be labels without end.
  expect(await metricOf(consumer, 'dead_letters_total', { reason: 'rejected' })).toBe(1)
})

test('failed attempts, and the pause after them, survive the worker', async ({ env }) => {
  const attempts: [who: string, attempt: number, at: number][] = []
  const failing = (who: string) =>
    env.consumer({ maxAttempts: 3, claimAfter: '200ms', backoff: () => 1_500 }).on(Happened, (_, { attempt }) => {
      attempts.push([who, attempt, performance.now()])
      throw new Error('never')
    })
  const first = failing('first')
  await first.start()
  await env.append('things', [{ n: 1 }])
  await until(() => attempts.length === 1)
  await first.stop()
  await failing('second').start()
  await until(async () => (await env.dead('things')).length === 1)
  expect(attempts.map(([who, attempt]) => [who, attempt])).toEqual([
    ['first', 1],
    ['second', 2],
    ['second', 3],
  ])
  const [[, , one], [, , two]] = attempts as [[string, number, number], [string, number, number]]
  expect(two - one).toBeGreaterThanOrEqual(1_450)
})

test('an event that waits holds no place of the one that there is, nor one of what is read ahead', async ({ env }) => {
  const consumer = env
    .consumer({ concurrency: 1, prefetch: 1, backoff: () => '9m' })
    .on(Happened, async (event, context) => {
      if (event.data.n < 5) throw new Error('never')
      await effect(event, context)
    })
  await consumer.start()
  await env.append('things', numbers(10))
  await until(async () => (await env.effects()).length === 5)
  expect((await consumer.stats()).waiting).toBe(5)
  expect(await metricOf(consumer, 'waiting')).toBe(5)
  await until(async () => (await env.pending('things')) === 5)
  // They are not taken for dead meanwhile, and not let go of.
  const waiting = await pendingOf(env.redis, 'things')
  expect(waiting.map(({ consumer: name }) => name)).toEqual(Array(5).fill(consumer.name))
})

test('an event that waits for its next attempt does not delay a stop', async ({ env }) => {
  const consumer = env.consumer({ backoff: () => '9m' }).on(Happened, () => {
    throw new Error('never')
  })
  await consumer.start()
  await env.append('things', numbers(8))
  await until(async () => (await consumer.stats()).waiting === 8)
  const began = performance.now()
  await consumer.stop({ timeout: '60s' })
  expect(performance.now() - began).toBeLessThan(20_000)
})

test('one poison event among hundreds is dead-lettered, and its neighbours continue', async ({ env }) => {
  const poison = 234
  const consumer = env.consumer({ maxAttempts: 5 }).on(Happened, async (event, context) => {
    await effect(event, context)
    if (event.data.n === poison) throw new Error('poison')
  })
  await consumer.start()
  const ids = await env.append('things', numbers(500))
  await env.drained('things', 499)
  expect(await env.dead('things')).toMatchObject([{ id: ids[poison], deadreason: 'attempts_exhausted' }])
  const done = (await env.effects()).map(({ event }) => event)
  expect(done.sort()).toEqual(ids.filter((id) => id !== ids[poison]).sort())
})
