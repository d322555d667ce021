import { expect } from 'vitest'
import { z } from 'zod'
import { retriesKey } from '../../src/event/names.js'
import { defineEvent } from '../../src/index.js'
import { until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf } from './watch.js'

/** Of the same stream, with a handler of its own, which keeps the others from beginning. */
const Blocker = defineEvent({ ...Happened, type: 'thing.blocker' })

const messages = (logs: readonly { msg: string }[]): string[] => logs.map(({ msg }) => msg)

test.for(['on', 'onBatch'] as const)(
  'an ordered event whose stream is lost before its payload is loaded is not overtaken by the next of its subject; %s',
  async (kind, { env }) => {
    const [began, go] = [new Gate(), new Gate()]
    await leaveBehind(env.redis, 'things', [{ n: 0 }], { subject: 'b', type: Blocker.type })
    await leaveBehind(env.redis, 'things', [{ n: 1 }], { subject: 'a', id: 'a1' })
    const consumer = env.consumer({ ordered: true, concurrency: 1 }).on(Blocker, async (_, { signal }) => {
      began.open()
      await go.passed(signal)
    })
    if (kind === 'on') consumer.on(Happened, effect)
    else {
      consumer.onBatch(Happened, async (events, context) => {
        for (const event of events) await effect(event, context)
      })
    }
    await consumer.start()
    await began.passed()
    // The first was taken over without its payload, the second comes with it.
    await env.append('things', [{ n: 2 }], { subject: 'a', id: 'a2' })
    await until(async () => (await consumer.stats()).queued === 2)
    await env.redis.del('things')
    go.open()
    await until(() => messages(env.logs).some((msg) => msg.startsWith('the group was missing')))
    // The relay repairs the stream.
    await env.append('things', [{ n: 1 }], { subject: 'a', id: 'a1' })
    await env.append('things', [{ n: 2 }], { subject: 'a', id: 'a2' })
    await env.drained('things', 2)
    expect((await env.effects()).map(({ n }) => n)).toEqual([1, 2])
  },
)

test('an ordered stream that is lost does not abort what runs of its other subjects', async ({ env }) => {
  const go = { b: new Gate(), c: new Gate() }
  const began: string[] = []
  const aborted: string[] = []
  for (const [n, subject] of ['b', 'c', 'a'].entries()) {
    await leaveBehind(env.redis, 'things', [{ n: n + 1 }], { subject, id: subject })
  }
  const consumer = env.consumer({ ordered: true, concurrency: 2 }).on(Happened, async (event, context) => {
    const subject = event.subject as string
    began.push(subject)
    context.signal.addEventListener('abort', () => aborted.push(subject))
    if (subject === 'b' || subject === 'c') await go[subject].passed(context.signal)
    await effect(event, context)
  })
  await consumer.start()
  await until(async () => began.length === 2 && (await consumer.stats()).queued === 1)
  await env.redis.del('things')
  go.c.open()
  // The payload of the third is not to be had, so all of the stream is taken again.
  await until(async () => (await metricOf(consumer, 'held')) === 0)
  await env.append('things', [{ n: 3 }], { subject: 'a', id: 'a' })
  await until(async () => (await env.effects()).some(({ n }) => n === 3))
  expect(aborted).toEqual([])
  go.b.open()
  await env.drained('things', 3)
  expect((await env.effects()).map(({ n }) => n)).toEqual([2, 3, 1])
})

test('what is trimmed while it waits without its payload is counted, told and dropped', async ({ env }) => {
  const entries = await leaveBehind(env.redis, 'things', [{ n: 1 }])
  // The next worker takes it over in the pause before its second attempt.
  const attempts = JSON.stringify({ attempts: 1, due: Date.now() + 3_600_000 })
  await env.redis.hset(retriesKey('things', GROUP), entries[0] as string, attempts)
  const consumer = env.consumer({ claimAfter: '200ms' }).on(Happened, effect)
  await consumer.start()
  await until(async () => (await consumer.stats()).waiting === 1)
  await env.redis.xtrim('things', 'MAXLEN', 0)
  const told = () => env.logs.filter(({ level, msg }) => level === 'error' && msg.includes('trimmed'))
  await until(() => told().length > 0)
  expect(told().map(({ entry }) => entry)).toEqual(entries)
  expect(await metricOf(consumer, 'trimmed_total', { stream: 'things' })).toBe(1)
  expect(await metricOf(consumer, 'held')).toBe(0)
})

test('an event of a batch that is lost while another one is validated is left out', async ({ env }) => {
  const [began, go] = [new Gate(), new Gate()]
  const data = z.object({ n: z.number() }).transform(async (value) => {
    if (value.n === 1) {
      began.open()
      await go.passed()
    }
    return value
  })
  const Slow = defineEvent({ stream: 'things', type: Happened.type, version: 1, data })
  await env.append('things', [{ n: 1 }, { n: 2 }])
  const consumer = env.consumer({ claimAfter: '300ms' }).onBatch(Slow, async (events, { tx }) => {
    for (const event of events) await effect(event, { tx })
  })
  await consumer.start()
  await began.passed()
  const entries = await env.redis.xrange('things', '-', '+')
  await env.redis.xclaim('things', GROUP, 'other', 0, entries[1]?.[0] as string, 'JUSTID')
  await until(async () => (await metricOf(consumer, 'held')) === 1)
  go.open()
  await until(async () => (await env.effects()).length === 1)
  expect((await env.effects())[0]?.n).toBe(1)
  expect(messages(env.logs)).not.toContainEqual(expect.stringContaining('a bug in Outrider'))
  await env.redis.xack('things', GROUP, entries[1]?.[0] as string)
})
