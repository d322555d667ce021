import { expect } from 'vitest'
import { effect, Happened, test } from './fixture.js'

test('each event has one effect, and is acknowledged', async ({ stage }) => {
  const ids = await stage.append(
    'things',
    Array.from({ length: 500 }, (_, n) => ({ n })),
  )
  const consumer = stage.consumer().on(Happened, effect)
  await consumer.start()
  await stage.drained('things', 500)
  const more = await stage.append('things', [{ n: 500 }])
  await stage.drained('things', 501)
  expect((await stage.effects()).map(({ event }) => event).sort()).toEqual([...ids, ...more].sort())
  await consumer.stop()
  expect(await stage.redis.xinfo('CONSUMERS', 'things', 'billing')).toEqual([])
})
test('ordered', async ({ stage }) => {
  for (let n = 0; n < 300; n++) await stage.append('things', [{ n }], { subject: `s${n % 7}` })
  const consumer = stage.consumer({ ordered: true }).on(Happened, effect)
  await consumer.start()
  await stage.drained('things', 300)
  await stage.append('things', [{ n: 300 }])
  await stage.drained('things', 301)
  const last = new Map<string, number>()
  for (const { n, subject } of await stage.effects()) {
    expect(n).toBeGreaterThan(last.get(subject as string) ?? -1)
    last.set(subject as string, n)
  }
  console.log(await consumer.stats(), await consumer.registry.metrics())
})
