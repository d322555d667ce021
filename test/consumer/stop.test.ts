import pg from 'pg'
import { expect } from 'vitest'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { createDatabase, freePort, until } from '../../testkit/services/index.js'
import { effect, endPool, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { Gate, pendingOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

test('a stop lets what runs finish, and leaves nothing behind', async ({ env }) => {
  const [began, go] = [new Gate(), new Gate()]
  const consumer = env.consumer().on(Happened, async (event, context) => {
    began.open()
    await go.passed(context.signal)
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await began.passed()
  const stopped = consumer.stop({ timeout: '30s' })
  expect((await consumer.stats()).state).toBe('stopping')
  // What comes meanwhile is not begun.
  await env.append('things', [{ n: 2 }])
  go.open()
  await stopped
  expect((await env.effects()).map(({ n }) => n)).toEqual([1])
  expect((await consumer.stats()).state).toBe('stopped')
  const next = env.consumer().on(Happened, effect)
  await next.start()
  await env.drained('things', 2)
})

test('a stop releases what it has not begun before it waits for what runs', async ({ env }) => {
  const [began, go] = [new Gate(), new Gate()]
  const first = env.consumer({ concurrency: 1, prefetch: 10 }).on(Happened, async (event, context) => {
    began.open()
    await go.passed(context.signal)
    await effect(event, context)
  })
  await first.start()
  await env.append('things', numbers(10))
  await began.passed()
  await until(async () => (await env.pending('things')) === 10)
  const stopped = first.stop()
  await env.consumer().on(Happened, effect).start()
  await until(async () => (await env.effects()).length === 9 && (await env.pending('things')) === 1)
  expect(await pendingOf(env.redis, 'things')).toMatchObject([{ consumer: first.name }])
  go.open()
  await stopped
  await env.drained('things', 10)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual(numbers(10).map(({ n }) => n))
})

test('an ordered worker that stops gives back idle partitions at once, and renews its lease of those in work', async ({
  env,
}) => {
  await env.redis.set('outrider:{things}:partitions', 2)
  const [began, go] = [new Gate(), new Gate()]
  const works: string[] = []
  const worker = () =>
    env.consumer({ ordered: true, claimAfter: '3s' }).on(Happened, {
      work: async (event, { signal }) => {
        works.push(`${event.stream} ${event.data.n}`)
        if (event.data.n > 0) return
        began.open()
        await go.passed(signal)
      },
      commit: (event, _, context) => effect(event, context),
    })
  const first = worker()
  await first.start()
  await env.append('things:0', numbers(2), { subject: 'a' })
  await began.passed()
  const stopped = first.stop()
  await worker().start()
  await env.append('things:1', [{ n: 1 }], { subject: 'b' })
  await env.drained('things:1', 1)
  const lease = `select 1 from outrider.subscription where stream_key = 'things:0' and expires_at > $1::timestamptz + '6s'`
  const { rows } = await env.pool.query('select clock_timestamp() as now')
  // Only a renewal after the end of the first lease gives one that lasts so long.
  await until(async () => (await env.pool.query(lease, [rows[0].now])).rows.length > 0)
  go.open()
  await stopped
  await env.drained('things:0', 3)
  expect((await env.effects()).map(({ subject, n }) => `${subject}${n}`)).toEqual(['b1', 'a0', 'a1'])
  expect(works).toEqual(['things:0 0', 'things:1 1', 'things:0 1'])
})

test('at the deadline the signal is aborted, and another worker has the rest at once, uncharged', async ({ env }) => {
  const began: number[] = []
  const aborted: number[] = []
  const first = env.consumer({ concurrency: 2, prefetch: 10 }).on(Happened, async (event, { signal }) => {
    began.push(event.data.n)
    signal.addEventListener('abort', () => aborted.push(event.data.n))
    await new Gate().passed(signal)
  })
  await first.start()
  await env.append('things', numbers(10))
  await until(async () => began.length === 2 && (await env.pending('things')) === 10)
  const asked = performance.now()
  await first.stop({ timeout: '300ms' })
  expect(performance.now() - asked).toBeGreaterThanOrEqual(290)
  expect(performance.now() - asked).toBeLessThan(10_000)
  // Each has a connection of its own first, and which comes first is open.
  expect(began.toSorted()).toEqual([0, 1])
  expect(aborted.toSorted()).toEqual([0, 1])
  const left = await pendingOf(env.redis, 'things')
  expect(left.map(({ deliveries }) => deliveries)).toEqual(Array(10).fill(0))
  expect(await env.redis.exists('outrider:{things}:retries:billing')).toBe(0)

  const attempts: number[] = []
  // With such a claimAfter nothing is taken for dead in time.
  const next = env.consumer({ claimAfter: '30m' }).on(Happened, async (event, context) => {
    attempts.push(context.attempt)
    await effect(event, context)
  })
  await next.start()
  await env.drained('things', 10)
  expect(attempts).toEqual(Array(10).fill(1))
})

test('at the deadline the signal of a batch is aborted, also where its first event was invalid', async ({ env }) => {
  const began = new Gate()
  let aborted = false
  const consumer = env.consumer().onBatch(Happened, async (_, { signal }) => {
    signal.addEventListener('abort', () => {
      aborted = true
    })
    began.open()
    await new Gate().passed(signal)
  })
  await env.append('things', [{ n: 'no number' }, { n: 1 }])
  await consumer.start()
  await began.passed()
  await consumer.stop({ timeout: 100 })
  expect(aborted).toBe(true)
})

test('a handler that takes no notice of its signal does not hold up the stop, nor lead to a second effect', async ({
  env,
}) => {
  const [began, go] = [new Gate(), new Gate()]
  const deaf = env.consumer().on(Happened, async (event, context) => {
    began.open()
    await go.passed()
    await effect(event, context)
  })
  await deaf.start()
  await env.append('things', [{ n: 1 }])
  await began.passed()
  try {
    const asked = performance.now()
    await deaf.stop({ timeout: 0 })
    expect(performance.now() - asked).toBeLessThan(8_000)
    const next = env.consumer({ claimAfter: '200ms' }).on(Happened, effect)
    await next.start()
    const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    await until(async () => (await env.pool.query(waits)).rows.length > 0)
  } finally {
    go.open()
  }
  await env.drained('things', 1)
  expect(await env.effects()).toHaveLength(1)
})

test('an idle worker stops at once, takes its name along, and may be told twice', async ({ env }) => {
  const consumer = env.consumer().on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(await env.redis.xinfo('CONSUMERS', 'things', 'billing')).toHaveLength(1)
  const began = performance.now()
  await Promise.all([consumer.stop(), consumer.stop()])
  await consumer.stop()
  expect(performance.now() - began).toBeLessThan(10_000)
  expect(await env.redis.xinfo('CONSUMERS', 'things', 'billing')).toEqual([])
  await expect(consumer.start()).rejects.toThrow('Make a new one')
})

test('run continues until its signal, and traps no signal of the process', async ({ env }) => {
  const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const
  const listeners = () => signals.map((name) => process.listenerCount(name))
  const before = listeners()
  const asked = new AbortController()
  const consumer = env.consumer().on(Happened, effect)
  const ran = consumer.run({ signal: asked.signal })
  await env.append('things', numbers(10))
  await env.drained('things', 10)
  expect(listeners()).toEqual(before)
  asked.abort()
  await ran
  expect((await consumer.stats()).state).toBe('stopped')
})

test('run begins nothing where its signal is aborted already', async ({ env }) => {
  await env.consumer().on(Happened, effect).run({ signal: AbortSignal.abort() })
  expect(await env.redis.exists('things')).toBe(0)
})

test('a Redis that is not there is told of at the start', async ({ env }) => {
  const port = await freePort()
  const consumer = env.consumer({ redis: `redis://127.0.0.1:${port}` }).on(Happened, effect)
  await expect(consumer.start()).rejects.toThrow(`Redis at 127.0.0.1:${port} refused the connection`)
})

test('a database that is not there is told of at the start', async ({ env }) => {
  const pool = new pg.Pool({ connectionString: `postgres://someone@127.0.0.1:${await freePort()}/none` })
  const consumer = env.consumer({ db: pool }).on(Happened, () => {})
  const error = (await consumer.start().catch((reason) => reason)) as Error
  expect(`${error.message} ${(error.cause as Error)?.message}`).toContain('ECONNREFUSED')
  await endPool(pool)
})

test('a database without an inbox is told of at the start, with what fixes it; then it may be started again', async ({
  env,
}) => {
  const database = await createDatabase()
  const pool = new pg.Pool({ connectionString: database.url })
  const consumer = env.consumer({ db: pool }).on(Happened, () => {})
  try {
    await expect(consumer.start()).rejects.toThrow('outrider setup --only inbox')
    const owner = await database.connect()
    await migrate(owner, { only: 'inbox' })
    await owner.end()
    await consumer.start()
    await env.append('things', numbers(3))
    await until(async () => (await env.pending('things')) === 0 && (await consumer.stats()).streams[0]?.lag === 0)
    await consumer.stop()
  } finally {
    await endPool(pool)
    await database.drop()
  }
})

test('a worker that is stopped while it starts leaves no connection open', async ({ env }) => {
  const clients = async () =>
    String(await env.redis.call('CLIENT', 'LIST'))
      .trim()
      .split('\n').length
  expect(await clients()).toBe(1)
  const consumer = env.consumer().on(Happened, effect)
  const started = expect(consumer.start()).rejects.toThrow('stopped while it started')
  await consumer.stop()
  await started
  await until(async () => (await clients()) === 1, { message: 'the connections of the worker to be closed' })
})

test('a run whose signal comes while it starts ends', async ({ env }) => {
  const asked = new AbortController()
  const consumer = env.consumer().on(Happened, effect)
  const ran = consumer.run({ signal: asked.signal })
  asked.abort()
  await ran
  expect((await consumer.stats()).state).toBe('stopped')
})
