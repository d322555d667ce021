import pg from 'pg'
import { expect } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, endPool, consumerTest as test } from './consumer-env.js'
import { setAside } from './group-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf } from './watch.js'

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

/** How many others were done between the first and the last of these numbers. */
async function othersBetween({ pool }: ConsumerEnv, from: number, to: number): Promise<number> {
  const { rows } = await pool.query(
    `select count(*)::int as n from effect, (select min(seq), max(seq) from effect where n between $1 and $2) as these
     where n not between $1 and $2 and seq between these.min and these.max`,
    [from, to],
  )
  return rows[0].n
}

/** How many others were done before the last of these numbers. */
async function othersBefore({ pool }: ConsumerEnv, from: number, to: number): Promise<number> {
  const { rows } = await pool.query(
    `select count(*)::int as n from effect
     where n not between $1 and $2 and seq < (select max(seq) from effect where n between $1 and $2)`,
    [from, to],
  )
  return rows[0].n
}

/** What `working` does in so many seconds at most. It measures a time as the worker has it, however little else its machine does. */
const mostIn = (seconds: number) => seconds * 4 * (1_000 / 20)

/** One event takes 20 ms at least, and four run at once: a backlog of 4,000 lasts 20 s. */
const working = (env: ConsumerEnv, options: Parameters<ConsumerEnv['consumer']>[0] = {}) =>
  env.consumer({ claimAfter: '1s', concurrency: 4, ...options }).on(Happened, async (event, context) => {
    await sleep(20)
    await effect(event, context)
  })

test('what a dead worker left is done within claimAfter and 5 s, and before what is new, however long the backlog is', async ({
  env,
}) => {
  await leaveBehind(env.redis, 'things', numbers(200))
  await env.append('things', numbers(4_000, 200))
  await working(env).start()
  await until(async () => (await doneOf(env, 0, 199)).these === 200)
  expect(await othersBefore(env, 0, 199)).toBeLessThan(mostIn(1 + 5))
  // They are claimed in pages, between which the worker reads new ones.
  expect(await othersBetween(env, 0, 199)).toBeLessThan(10)
})

test('what a stopped worker has released is done within 5 s, whatever claimAfter is', async ({ env }) => {
  const ids = await leaveBehind(env.redis, 'things', numbers(50))
  const ghost = new ConsumerGroup('things', GROUP, 'ghost')
  await ghost.release(
    env.redis,
    ids.map((id) => ({ id, uncounted: true })),
  )
  await env.append('things', numbers(4_000, 50))
  await working(env, { claimAfter: '1h' }).start()
  await until(async () => (await doneOf(env, 0, 49)).these === 50)
  expect(await othersBefore(env, 0, 49)).toBeLessThan(mostIn(5))
})

test('what an older worker has left for a newer one is done within claimAfter and 5 s under a backlog', async ({
  env,
}) => {
  const old = env.consumer({ claimAfter: '1s', versionGrace: '1h' }).on(Happened, effect)
  await old.start()
  await env.append('things', numbers(20), { version: 2 })
  await until(async () => (await env.redis.hlen('outrider:{things}:retries:billing')) === 20)
  await old.stop()
  await env.append('things', numbers(4_000, 50))
  await working(env)
    .on({ ...Happened, version: 2 }, effect)
    .start()
  await until(async () => (await doneOf(env, 0, 49)).these === 20)
  expect(await othersBefore(env, 0, 49)).toBeLessThan(mostIn(1 + 5))
})

test('what a dead worker has taken from the waiting stream is done within claimAfter and 5 s under a backlog', async ({
  env,
}) => {
  const ghost = new ConsumerGroup('things', GROUP, 'ghost')
  const left = await leaveBehind(env.redis, 'things', numbers(10))
  const said = ['waiting-attempts', '1', 'waiting-since', String(Date.now())]
  for (const [n, id] of left.entries()) {
    const due = n < 5 ? 1 : Date.now() + 3_600_000
    expect(await setAside(ghost, env.redis, { id, fields: [] }, due, said)).toBe(true)
  }
  expect((await ghost.waiting.takeDue(env.redis, Date.now(), 3))?.taken).toHaveLength(3)
  await env.append('things', numbers(4_000, 50))
  await working(env, { prefetch: 40 }).start()
  // Two are due, and three are pending with a worker that is gone.
  await until(async () => (await doneOf(env, 0, 49)).these === 5)
  expect(await othersBefore(env, 0, 49)).toBeLessThan(mostIn(1 + 5))
})

test('what is due in the waiting stream is taken as fast as it is done', async ({ env }) => {
  /** How long a new worker takes for 500 events, in milliseconds. */
  const work = async (from: number) => {
    const worker = env.consumer({ claimAfter: '1m' }).on(Happened, effect)
    await worker.start()
    const began = performance.now()
    await until(async () => (await doneOf(env, from, from + 499)).these === 500)
    const took = performance.now() - began
    await worker.stop()
    return took
  }
  await env.append('things', numbers(500))
  const usual = await work(0)
  const ghost = new ConsumerGroup('things', GROUP, 'ghost')
  const said = ['waiting-attempts', '1', 'waiting-since', String(Date.now())]
  for (const id of await leaveBehind(env.redis, 'things', numbers(500, 500))) {
    expect(await setAside(ghost, env.redis, { id, fields: [] }, 1, said)).toBe(true)
  }
  // Each look takes 110 entries at most. With a pause of 5 s between looks it would be 15 s more.
  expect(await work(500)).toBeLessThan(3 * usual + 8_000)
})

/** For what moves so much that a busy machine takes a minute. */
const LARGE = 240_000

test('a batch may have 10,000 events, and gets them where there are so many', async ({ env }) => {
  const sizes: number[] = []
  const consumer = env.consumer({ concurrency: 1 }).onBatch(
    Happened,
    async (events, { tx }) => {
      sizes.push(events.length)
      // The next batch is collected meanwhile.
      const collected = async () => (await consumer.stats()).queued >= 10_000 || events.length === 10_000
      if (sizes.length === 1) await until(collected, { timeout: LARGE })
      const rows = JSON.stringify(events.map(({ id, data }) => ({ event: id, n: data.n })))
      const columns = 'json_to_recordset($1) as r (event text, n int)'
      await tx.query(`insert into effect (event, n) select event, n from ${columns}`, [rows])
    },
    { size: 10_000 },
  )
  // The first read, of 2,048 events, is a batch of its own.
  for (let n = 0; n < 13_000; n += 1_000) await env.append('things', numbers(1_000, n))
  await consumer.start()
  await env.drained('things', 13_000, LARGE)
  expect(Math.max(...sizes)).toBe(10_000)
})

const Slow = defineEvent({ stream: 'things', type: 'thing.slow', version: 1, data: z.object({ n: z.number() }) })

/**
 * Starts five workers of ten places, one after another. Of 100 slow events 50 must then run at once: they last until all of them do, so that
 * it does not matter how long a start takes. Each of the others lasts a second.
 */
async function startFive(env: ConsumerEnv): Promise<{ shares: number[] }> {
  const pools = Array.from({ length: 5 }, () => new pg.Pool({ connectionString: env.database.url, max: 10 }))
  const go = new Gate()
  let running = 0
  const worker = (db: pg.Pool) =>
    env
      .consumer({ db, claimAfter: '1s', concurrency: 10 })
      .on(Slow, async (event, context) => {
        running += 1
        try {
          // So many are read ahead as begin within a second.
          await Promise.all([sleep(1_000), go.passed(context.signal)])
          await effect(event, context)
        } finally {
          running -= 1
        }
      })
      .on(Happened, effect)
  try {
    const workers = pools.map(worker)
    for (const each of workers) await each.start()
    await until(() => running === 50, { message: () => `50 events to run at once, found ${running}` })
    go.open()
    await until(async () => (await doneOf(env, 0, 99)).these === 100)
    const shares = await Promise.all(workers.map((each) => metricOf(each, 'processed_total', { type: Slow.type })))
    await Promise.all(workers.map((each) => each.stop()))
    return { shares }
  } finally {
    go.open()
    await Promise.all(pools.map(endPool))
  }
}

test('five workers of ten share 100 events of one second: all of their places are busy at once', async ({ env }) => {
  await env.append('things', numbers(100), { type: Slow.type })
  const { shares } = await startFive(env)
  expect(Math.max(...shares)).toBeLessThanOrEqual(30)
})

test('five workers share 100 events of one second that stand between those of another type', async ({ env }) => {
  for (let n = 0; n < 100; n += 10) {
    await env.append('things', numbers(10, n), { type: Slow.type })
    await env.append('things', numbers(10, 1_000 + n))
  }
  const { shares } = await startFive(env)
  // Some of them are released, and claimed in rounds of about 250 ms.
  expect(Math.max(...shares)).toBeLessThanOrEqual(40)
})

test('five workers share 100 events of one second that a dead worker has left', async ({ env }) => {
  await leaveBehind(env.redis, 'things', numbers(100), { type: Slow.type })
  const { shares } = await startFive(env)
  expect(Math.max(...shares)).toBeLessThanOrEqual(30)
})

test('five workers share 100 events of one second that are due in the waiting stream', async ({ env }) => {
  const ghost = new ConsumerGroup('things', GROUP, 'ghost')
  const said = ['waiting-attempts', '1', 'waiting-since', String(Date.now())]
  for (const id of await leaveBehind(env.redis, 'things', numbers(100), { type: Slow.type })) {
    expect(await setAside(ghost, env.redis, { id, fields: [] }, 1, said)).toBe(true)
  }
  const { shares } = await startFive(env)
  expect(Math.max(...shares)).toBeLessThanOrEqual(40)
})

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
  await until(async () => (await doneOf(env, 0, 99)).these === 100)
  // Four run at once: so many are done in 5 s at most.
  expect((await doneOf(env, 0, 99)).others).toBeLessThan(4 * 5)
  // What it has read of the slow ones to find them, another worker may claim.
  expect((await consumer.stats()).queued).toBeLessThanOrEqual(8)
})

test('what no handler takes is passed over in a stream of two handlers, however much of it comes first', async ({
  env,
}) => {
  const consumer = env
    .consumer({ concurrency: 4, skip: ['thing.skipped'] })
    .on(Happened, effect)
    .on(Slow, effect)
  await env.append('things', numbers(750), { type: 'thing.skipped' })
  await env.append('things', numbers(750), { type: 'thing.unknown' })
  await env.append('things', numbers(10))
  await env.append('things', numbers(10, 10), { type: Slow.type })
  await consumer.start()
  await env.drained('things', 20)
  expect((await consumer.stats()).streams).toMatchObject([{ lag: 0, pending: 0 }])
  expect(await env.dead('things')).toHaveLength(750)
  expect(await metricOf(consumer, 'processed_total', { result: 'skipped' })).toBe(750)
})

test('a version does not wait for another one of its type that has a handler of its own', async ({ env }) => {
  const gate = new Gate()
  const consumer = env
    .consumer({ concurrency: 4 })
    .on(Happened, effect)
    .on(
      { ...Happened, version: 2 },
      async (event, context) => {
        await gate.passed(context.signal)
        await effect(event, context)
      },
      { concurrency: 1 },
    )
  await env.append('things', numbers(100, 100), { version: 2 })
  await env.append('things', numbers(100))
  await consumer.start()
  await until(async () => (await doneOf(env, 0, 99)).these === 100)
  gate.open()
  await env.drained('things', 200)
})
