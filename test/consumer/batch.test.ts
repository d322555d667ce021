import type pg from 'pg'
import { expect } from 'vitest'
import type { ConsumerEvent } from '../../src/consumer/index.js'
import { until } from '../../testkit/services/index.js'
import { consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { metricOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

type Event = ConsumerEvent<{ n: number }>

const effects = async (events: readonly Event[], tx: pg.PoolClient): Promise<void> => {
  const rows = events.map(({ id, data }) => ({ event: id, n: data.n }))
  await tx.query('insert into effect (event, n) select event, n from json_to_recordset($1) as r (event text, n int)', [
    JSON.stringify(rows),
  ])
}

test('many events are done in one transaction', async ({ env }) => {
  const sizes: number[] = []
  const transactions = new Set<string>()
  const ids = await env.append('things', numbers(1_000))
  const consumer = env.consumer().onBatch(
    Happened,
    async (events, { tx }) => {
      sizes.push(events.length)
      const { rows } = await tx.query('select pg_current_xact_id()::text as id')
      transactions.add(rows[0].id)
      await effects(events, tx)
    },
    { size: 50 },
  )
  await consumer.start()
  await env.drained('things', 1_000)
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual(ids.sort())
  expect(Math.max(...sizes)).toBe(50)
  expect(sizes.length).toBeLessThan(100)
  expect(transactions.size).toBe(sizes.length)
})

test('of a batch that fails each event is tried alone, and only the one to blame is dead-lettered', async ({ env }) => {
  const calls: { ns: number[]; attempt: number }[] = []
  const ids = await env.append('things', numbers(20))
  const consumer = env.consumer({ maxAttempts: 3, concurrency: 1 }).onBatch(Happened, async (events, context) => {
    calls.push({ ns: events.map(({ data }) => data.n), attempt: context.attempt })
    await effects(events, context.tx)
    if (events.some(({ data }) => data.n === 7)) throw new Error('seven')
  })
  await consumer.start()
  await env.drained('things', 19)
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual(ids.filter((_, n) => n !== 7).sort())
  expect(await env.dead('things')).toMatchObject([
    { id: ids[7], deadreason: 'attempts_exhausted', deadattempts: '3', deaderror: 'Error: seven' },
  ])
  // The batch itself was an attempt of nobody.
  expect(calls.filter(({ ns }) => ns.includes(7)).map(({ ns, attempt }) => [ns.length, attempt])).toEqual([
    [20, 1],
    [1, 1],
    [1, 2],
    [1, 3],
  ])
  expect(calls.filter(({ ns }) => ns.length === 1 && ns[0] !== 7)).toHaveLength(19)
})

test('a batch gets only what its group has not done, and each event once', async ({ env }) => {
  await env.append('things', numbers(1), { id: 'done' })
  const before = env.consumer().onBatch(Happened, (events, { tx }) => effects(events, tx))
  await before.start()
  await env.drained('things', 1)
  await before.stop()

  const batches: string[][] = []
  await env.append('things', numbers(1), { id: 'done' })
  await env.append('things', [{ n: 1 }, { n: 1 }, { n: 1 }], { id: 'thrice' })
  await env.append('things', numbers(1, 2), { id: 'once' })
  const consumer = env.consumer({ concurrency: 1 }).onBatch(Happened, async (events, { tx }) => {
    batches.push(events.map(({ id }) => id))
    await effects(events, tx)
  })
  await consumer.start()
  await env.drained('things', 3)
  expect(batches).toEqual([['thrice', 'once']])
  expect(await metricOf(consumer, 'duplicates_total')).toBe(3)
})

test('a batch whose events are all done is not handed to anybody', async ({ env }) => {
  await env.pool.query("insert into outrider.inbox (consumer_group, source, id) values ('billing', '/shop', 'done')")
  await env.append('things', [{ n: 1 }, { n: 1 }], { id: 'done' })
  let calls = 0
  const consumer = env.consumer().onBatch(Happened, () => {
    calls += 1
  })
  await consumer.start()
  await until(async () => (await metricOf(consumer, 'duplicates_total')) === 2)
  await env.drained('things', 0)
  expect(calls).toBe(0)
})

test('own keys count within a batch as they do between batches', async ({ env }) => {
  const seen: number[] = []
  await env.append('things', [{ n: 1 }, { n: 2 }, { n: 11 }, { n: 3 }])
  const consumer = env.consumer({ concurrency: 1 }).onBatch(
    Happened,
    async (events, { tx }) => {
      seen.push(...events.map(({ data }) => data.n))
      await effects(events, tx)
    },
    { key: ({ data }) => `digit ${data.n % 10}` },
  )
  await consumer.start()
  await env.drained('things', 3)
  await env.append('things', [{ n: 21 }, { n: 4 }])
  await env.drained('things', 4)
  expect(seen).toEqual([1, 2, 3, 4])
  const { rows } = await env.pool.query('select source, id from outrider.inbox order by id')
  expect(rows).toEqual([1, 2, 3, 4].map((n) => ({ source: 'urn:outrider:key', id: `thing.happened digit ${n}` })))
})
