import { expect } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { Group } from '../../src/redis/group.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { leaveBehind, metricOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Of these numbers: how many are done, and how many others are. */
async function doneOf({ pool }: ConsumerEnv, from: number, to: number): Promise<{ these: number; others: number }> {
  const { rows } = await pool.query(
    `select count(*) filter (where n between $1 and $2)::int as these,
       count(*) filter (where n not between $1 and $2)::int as others from effect`,
    [from, to],
  )
  return rows[0]
}

/** One event takes 20 ms: a backlog of 4,000 lasts 20 s. */
const working = (env: ConsumerEnv) =>
  env.consumer({ claimAfter: '1s', concurrency: 4, prefetch: 40 }).on(Happened, async (event, context) => {
    await sleep(20)
    await effect(event, context)
  })

test('what a dead worker left is done within claimAfter and 5 s, however long the backlog is', async ({ env }) => {
  await leaveBehind(env.redis, 'things', numbers(50))
  await env.append('things', numbers(4_000, 50))
  await working(env).start()
  const began = performance.now()
  await until(async () => (await doneOf(env, 0, 49)).these === 50, { timeout: 15_000 })
  expect(performance.now() - began).toBeLessThan(1_000 + 5_000 + 50 * 20)
  expect((await doneOf(env, 0, 49)).others).toBeLessThan(2_000)
})

test('what a dead worker has taken from the waiting stream is done within claimAfter and 5 s under a backlog', async ({
  env,
}) => {
  const ghost = new Group('things', GROUP, 'ghost')
  const left = await leaveBehind(env.redis, 'things', numbers(10))
  const said = ['waiting-attempts', '1', 'waiting-since', String(Date.now())]
  for (const [n, id] of left.entries()) {
    const due = n < 5 ? 1 : Date.now() + 3_600_000
    expect(await ghost.wait(env.redis, { id, fields: [] }, due, said)).toBe(true)
  }
  expect((await ghost.waiting.due(env.redis, Date.now(), 3))?.taken).toHaveLength(3)
  await env.append('things', numbers(4_000, 50))
  await working(env).start()
  const began = performance.now()
  // Two are due, and three are pending with a worker that is gone.
  await until(async () => (await doneOf(env, 0, 49)).these === 5, { timeout: 15_000 })
  expect(performance.now() - began).toBeLessThan(1_000 + 5_000 + 10 * 20)
  expect((await doneOf(env, 0, 49)).others).toBeLessThan(2_000)
})

test('what is due in the waiting stream is taken as fast as it is done', async ({ env }) => {
  const ghost = new Group('things', GROUP, 'ghost')
  const said = ['waiting-attempts', '1', 'waiting-since', String(Date.now())]
  for (const id of await leaveBehind(env.redis, 'things', numbers(500))) {
    expect(await ghost.wait(env.redis, { id, fields: [] }, 1, said)).toBe(true)
  }
  // Rounds of 5 s: each takes 110 entries at most at once.
  await env.consumer({ claimAfter: '1m' }).on(Happened, effect).start()
  const began = performance.now()
  await until(async () => (await doneOf(env, 0, 499)).these === 500, { timeout: 20_000 })
  expect(performance.now() - began).toBeLessThan(10_000)
})

test('a batch may have 10,000 events, and gets them where there are so many', async ({ env }) => {
  const sizes: number[] = []
  const consumer = env.consumer({ concurrency: 1 }).onBatch(
    Happened,
    async (events, { tx }) => {
      sizes.push(events.length)
      // The next batch is collected meanwhile.
      const collected = async () => (await consumer.stats()).queued >= 10_000 || events.length === 10_000
      if (sizes.length === 1) await until(collected, { timeout: 20_000 })
      const rows = JSON.stringify(events.map(({ id, data }) => ({ event: id, n: data.n })))
      const columns = 'json_to_recordset($1) as r (event text, n int)'
      await tx.query(`insert into effect (event, n) select event, n from ${columns}`, [rows])
    },
    { size: 10_000 },
  )
  for (let n = 0; n < 12_000; n += 4_000) await env.append('things', numbers(4_000, n))
  await consumer.start()
  await env.drained('things', 12_000)
  expect(Math.max(...sizes)).toBe(10_000)
})

test('five workers of three share 30 events of one second: they need no more than twice the ideal 2 s', async ({
  env,
}) => {
  const workers = Array.from({ length: 5 }, () =>
    env.consumer({ concurrency: 3 }).on(Happened, async (event, context) => {
      await sleep(1_000)
      await effect(event, context)
    }),
  )
  for (const worker of workers) await worker.start()
  await env.append('things', numbers(30))
  const began = performance.now()
  await until(async () => (await doneOf(env, 0, 29)).these === 30, { timeout: 20_000 })
  expect(performance.now() - began).toBeLessThan(4_000)
  const shares = await Promise.all(workers.map((worker) => metricOf(worker, 'processed_total')))
  expect(Math.max(...shares)).toBeLessThanOrEqual(12)
})

const Slow = defineEvent({ stream: 'things', type: 'thing.slow', version: 1, data: z.object({ n: z.number() }) })

test('a light type behind 100 slow events does not wait for them', async ({ env }) => {
  const consumer = env
    .consumer({ concurrency: 4 })
    .on(Happened, effect)
    .on(Slow, async (event, context) => {
      await sleep(1_000)
      await effect(event, context)
    })
  await env.append('things', numbers(100, 1_000), { type: Slow.type })
  await env.append('things', numbers(100))
  await consumer.start()
  const began = performance.now()
  await until(async () => (await doneOf(env, 0, 99)).these === 100, { timeout: 30_000 })
  expect(performance.now() - began).toBeLessThan(5_000)
  expect((await doneOf(env, 0, 99)).others).toBeLessThan(30)
})
