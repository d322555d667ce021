import { expect } from 'vitest'
import { effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'

test('each event has one effect, and is acknowledged', async ({ env }) => {
  const ids = await env.append(
    'things',
    Array.from({ length: 500 }, (_, n) => ({ n })),
  )
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  await env.drained('things', 500)
  const more = await env.append('things', [{ n: 500 }])
  await env.drained('things', 501)
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual([...ids, ...more].sort())
  await consumer.stop()
  expect(await env.redis.xinfo('CONSUMERS', 'things', 'billing')).toEqual([])
})
test('ordered', async ({ env }) => {
  for (let n = 0; n < 300; n++) await env.append('things', [{ n }], { subject: `s${n % 7}` })
  const consumer = env.consumer({ ordered: true }).on(Happened, effect)
  await consumer.start()
  await env.drained('things', 300)
  await env.append('things', [{ n: 300 }])
  await env.drained('things', 301)
  const last = new Map<string, number>()
  for (const { n, subject } of await env.effects()) {
    expect(n).toBeGreaterThan(last.get(subject as string) ?? -1)
    last.set(subject as string, n)
  }
  console.log(await consumer.stats(), await consumer.registry.metrics())
})
