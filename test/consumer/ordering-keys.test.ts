import { isDeepStrictEqual } from 'node:util'
import { expect } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { Gate } from './gate.js'
import { Happened } from './happened.js'
import { leaveBehind, pendingOf } from './watch.js'

const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

const append = (env: ConsumerEnv, subject: string | undefined, ns: number[], key = 'things') =>
  env.append(
    key,
    ns.map((n) => ({ n })),
    subject === undefined ? {} : { subject },
  )

const doneOf = async (env: ConsumerEnv, subject: string): Promise<number[]> =>
  (await env.effects()).flatMap((done) => (done.subject === subject ? [done.n] : []))

test('an event that waits for its next attempt holds up its subject, and nothing else', async ({ env }) => {
  const gate = new Gate()
  const consumer = env.consumer({ ordered: true, maxAttempts: 1_000 }).on(Happened, async (event, context) => {
    if (event.subject === 'a' && event.data.n === 1 && !gate.isOpen) throw new Error('not yet')
    await effect(event, context)
  })
  await append(env, 'a', upTo(10))
  await append(env, 'b', upTo(50))
  await consumer.start()
  await until(async () => (await doneOf(env, 'b')).length === 50)
  expect(await doneOf(env, 'a')).toEqual([0])
  gate.open()
  await env.drained('things', 60)
  expect(await doneOf(env, 'a')).toEqual(upTo(10))
  expect(await doneOf(env, 'b')).toEqual(upTo(50))
})

test('a subject that does not continue holds up the others of its partition only at maxPending', async ({ env }) => {
  await env.redis.set('outrider:{things}:partitions', 2)
  const gate = new Gate()
  const consumer = env.consumer({ ordered: true, maxPending: 10 }).on(Happened, async (event, context) => {
    if (event.subject === 'a') await gate.wait(context.signal)
    await effect(event, context)
  })
  await consumer.start()
  await append(env, 'a', upTo(5), 'things:0')
  await append(env, 'b', upTo(40), 'things:0')
  await until(async () => (await doneOf(env, 'b')).length === 40)
  await append(env, 'a', [5, 6, 7, 8, 9, 10, 11], 'things:0')
  await append(env, 'c', upTo(5), 'things:0')
  await until(async () => (await env.pending('things:0')) >= 10)
  // By now the worker has been round all of its partitions.
  await append(env, 'd', upTo(5), 'things:1')
  await until(async () => (await doneOf(env, 'd')).length === 5)
  expect(await env.pending('things:0')).toBe(10)
  expect(await doneOf(env, 'c')).toEqual([])
  gate.open()
  await env.drained('things:0', 62)
  expect(await doneOf(env, 'a')).toEqual(upTo(12))
  expect(await doneOf(env, 'c')).toEqual(upTo(5))
})

test('of a batch that fails, what stands behind the event to blame waits for it, and the rest is done', async ({
  env,
}) => {
  const gate = new Gate()
  const sizes: number[] = []
  const consumer = env.consumer({ ordered: true, maxAttempts: 1_000 }).onBatch(Happened, async (events, context) => {
    sizes.push(events.length)
    for (const event of events) await effect(event, context)
    if (!gate.isOpen && events.some(({ subject, data }) => subject === 'a' && data.n === 2)) throw new Error('not yet')
  })
  await append(env, 'a', upTo(6))
  await append(env, 'b', upTo(6))
  await consumer.start()
  await until(async () => (await env.effects()).length === 8)
  expect(await doneOf(env, 'a')).toEqual([0, 1])
  expect(await doneOf(env, 'b')).toEqual(upTo(6))
  gate.open()
  await env.drained('things', 12)
  expect(await doneOf(env, 'a')).toEqual(upTo(6))
  expect(sizes[0]).toBe(12)
})

test('events without a subject wait for no one', async ({ env }) => {
  const gate = new Gate()
  let running = 0
  const consumer = env.consumer({ ordered: true, concurrency: 5 }).on(Happened, async (event, context) => {
    running += 1
    if (running === 5) gate.open()
    await gate.wait(context.signal)
    await effect(event, context)
  })
  await append(env, undefined, upTo(5))
  await consumer.start()
  await env.drained('things', 5)
})

test('what was counted in a batch, and kept back by an event before it, is uncounted when a stop releases it', async ({
  env,
}) => {
  let asked = 0
  const data = z.object({ n: z.number() }).transform(() => {
    asked += 1
    throw new Error('not just now')
  })
  const Careful = defineEvent({ stream: 'things', type: Happened.type, version: 1, data })
  await leaveBehind(env.redis, 'things', [{ n: 0 }, { n: 1 }, { n: 2 }], { subject: 'a' })
  const deliveries = async () => (await pendingOf(env.redis, 'things')).map((entry) => entry.deliveries)
  const consumer = env.consumer({ ordered: true, backoff: () => '1m' }).onBatch(Careful, () => {})
  await consumer.start()
  // The first one has failed, which is an outcome; the others did not run.
  await until(async () => asked > 0 && (await consumer.stats()).waiting === 1)
  await until(async () => isDeepStrictEqual(await deliveries(), [1, 2, 2]))
  await consumer.stop()
  expect(await deliveries()).toEqual([0, 1, 1])
})

test('in a batch, an event whose schema throws keeps back what came along behind it', async ({ env }) => {
  let thrown = 0
  const data = z.object({ n: z.number() }).transform((value) => {
    // Twice: zod parses anew when something was thrown.
    if (value.n === 0 && thrown < 2) {
      thrown += 1
      throw new Error('not just now')
    }
    return value
  })
  const Careful = defineEvent({ stream: 'things', type: Happened.type, version: 1, data })
  await env.append('things', [{ n: 0 }, { n: 1 }, { n: 2 }], { subject: 'a' })
  const consumer = env.consumer({ ordered: true }).onBatch(Careful, async (events, { tx }) => {
    for (const event of events) await effect(event, { tx })
  })
  await consumer.start()
  await env.drained('things', 3)
  expect([thrown, (await env.effects()).map(({ n }) => n)]).toEqual([2, [0, 1, 2]])
})
