import { expect } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { metricOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

const Failing = defineEvent({ stream: 'things', type: 'thing.failing', version: 1, data: z.object({ n: z.number() }) })

const said = ({ logs }: ConsumerEnv, message: string) => logs.filter(({ msg }) => msg.startsWith(message))

const effects = async ({ pool }: ConsumerEnv): Promise<number> =>
  (await pool.query('select count(distinct event)::int as n from effect')).rows[0].n

test('a type that always fails keeps nothing from another type of its stream', async ({ env }) => {
  let failed = 0
  const consumer = env
    .consumer({ backoff: { min: '1m', max: '1m' } })
    .on(Happened, effect)
    .on(Failing, () => {
      failed += 1
      throw new Error('503')
    })
  for (let n = 0; n < 10_500; n += 3_500) await env.append('things', numbers(3_500, n), { type: Failing.type })
  await env.append('things', numbers(500))
  /** How long a worker takes to begin, and to do all of the other type, in milliseconds. */
  const timeOf = async (worker: typeof consumer, done: () => Promise<number>) => {
    const began = performance.now()
    await worker.start()
    await until(async () => (await done()) === 500)
    return performance.now() - began
  }
  const skipping = env.consumer({ group: 'shipping', skip: [Failing.type] }).on(Happened, () => {})
  const skipped = await timeOf(skipping, () => metricOf(skipping, 'processed_total', { result: 'done' }))
  await skipping.stop()
  expect(await timeOf(consumer, () => effects(env))).toBeLessThan(3 * skipped + 5_000)
  // The first ten, those that ran beside them, and a probe now and then.
  expect(failed).toBeLessThan(50)
  expect(await env.dead('things')).toEqual([])
  // Nothing is lost: it is held, or set aside.
  const held = (await consumer.stats()).queued + (await consumer.stats()).waiting
  expect(held).toBeLessThan(3_000)
  await until(async () => {
    const [pending, aside] = [await env.pending('things'), await env.redis.xlen('outrider:{things}:waiting:billing')]
    return pending + aside === 10_500
  })
})

test('while a breaker is open only its probes are attempts, and it closes when one succeeds', async ({ env }) => {
  let isUp = false
  const attempts = new Map<number, number>()
  const consumer = env.consumer({ backoff: () => 200 }).on(Happened, async (event, context) => {
    attempts.set(event.data.n, context.attempt)
    if (!isUp) throw new Error('503')
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', numbers(60))
  await until(() => said(env, 'circuit breaker opened').length === 1)
  expect(said(env, 'circuit breaker opened')).toMatchObject([{ level: 'warn', types: ['thing.happened'] }])
  expect(await metricOf(consumer, 'breaker_open', { type: 'thing.happened' })).toBe(1)
  const failures = () => metricOf(consumer, 'retries_total', { reason: 'failed' })
  const before = await failures()
  await until(async () => (await failures()) >= before + 2)
  // Of 60 events with a backoff of 10 ms.
  expect(await failures()).toBeLessThan(before + 10)
  isUp = true
  await env.drained('things', 60)
  expect(said(env, 'circuit breaker closed')).toMatchObject([{ level: 'info', openMs: expect.any(Number) }])
  expect(await metricOf(consumer, 'breaker_open', { type: 'thing.happened' })).toBe(0)
  expect(await effects(env)).toBe(60)
})

test('events that always fail do not keep the breaker open for those that do not', async ({ env }) => {
  const consumer = env.consumer({ backoff: () => 500 }).on(Happened, async (event, context) => {
    if (event.data.n < 15) throw new Error('poison')
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', numbers(15))
  await until(() => said(env, 'circuit breaker opened').length > 0)
  await env.append('things', numbers(100, 15))
  await until(async () => (await effects(env)) === 100)
})

test('events that fail again and again keep no other from its first attempt', async ({ env }) => {
  // Too few to open the breaker, and always one of them may be tried again.
  const consumer = env.consumer({ concurrency: 1, backoff: () => 10 }).on(Happened, async (event, context) => {
    await new Promise((resolve) => setTimeout(resolve, 10))
    if (event.data.n < 8) throw new Error('poison')
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', numbers(8))
  await until(async () => (await metricOf(consumer, 'retries_total', { reason: 'failed' })) >= 16)
  await env.append('things', numbers(50, 8))
  await until(async () => (await effects(env)) === 50)
})

test('a breaker closes again while another handler has a backlog', async ({ env }) => {
  let isUp = false
  const Others = defineEvent({ stream: 'others', type: 'thing.other', version: 1, data: z.object({ n: z.number() }) })
  const consumer = env
    .consumer({ concurrency: 2, backoff: () => 200 })
    .on(Happened, async (event, context) => {
      if (!isUp) throw new Error('503')
      await effect(event, context)
    })
    .on(Others, () => new Promise((resolve) => setTimeout(resolve, 20)))
  await consumer.start()
  await env.append('things', numbers(15))
  await until(() => said(env, 'circuit breaker opened').length === 1)
  await env.append('others', numbers(3_000), { type: Others.type })
  await until(async () => (await metricOf(consumer, 'processed_total', { type: Others.type })) > 20)
  isUp = true
  await until(async () => (await effects(env)) === 15)
  expect(await metricOf(consumer, 'processed_total', { type: Others.type })).toBeLessThan(2_000)
})

test('with prefetch, an open breaker keeps no other type from being read', async ({ env }) => {
  const consumer = env
    .consumer({ prefetch: 20, backoff: () => 200 })
    .on(Happened, effect)
    .on(Failing, () => {
      throw new Error('503')
    })
  await env.append('things', numbers(100), { type: Failing.type })
  await env.append('things', numbers(100))
  await consumer.start()
  await until(async () => (await effects(env)) === 100)
})

test('an ordered worker reads on for another type while a breaker is open', async ({ env }) => {
  const consumer = env
    .consumer({ ordered: true, prefetch: 20, backoff: () => 200 })
    .on(Happened, effect)
    .on(Failing, () => {
      throw new Error('503')
    })
  for (let n = 0; n < 60; n++) await env.append('things', [{ n }], { type: Failing.type, subject: `a${n}` })
  for (let n = 0; n < 60; n++) await env.append('things', [{ n }], { subject: `b${n}` })
  await consumer.start()
  await until(async () => (await effects(env)) === 60)
})
