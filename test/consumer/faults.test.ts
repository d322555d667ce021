import pg from 'pg'
import { expect, onTestFinished } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { startProxy, type TcpProxy, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, endPool, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, metricOf, pendingOf } from './watch.js'

const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n: n + 1 }))

function poolOf(url: string, options: pg.PoolConfig = {}): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max: 10, ...options })
  pool.on('error', () => {})
  onTestFinished(() => endPool(pool))
  return pool
}

/** A proxy before a server, and an end to it with the test. */
async function proxyTo(url: string): Promise<TcpProxy> {
  const proxy = await startProxy(Number(new URL(url).port))
  onTestFinished(() => proxy.close())
  return proxy
}

/** The workers' database behind a proxy. */
async function proxiedDatabase(env: ConsumerEnv): Promise<{ proxy: TcpProxy; pool: pg.Pool }> {
  const proxy = await startProxy(Number(new URL(env.database.url).port))
  const pool = poolOf(proxy.url(env.database.url))
  // Before the end of the pool, which waits for what goes through it: what is registered last comes first.
  onTestFinished(() => proxy.close())
  return { proxy, pool }
}

/** What a stop may take beside its timeout, in milliseconds: some last words to each of what does not answer. */
const BOUND = 15_000

async function millisecondsOf(run: () => Promise<unknown>): Promise<number> {
  const began = performance.now()
  await run()
  return performance.now() - began
}

test('long work that begins while Postgres is down is charged nothing, and is done when it is back', async ({
  env,
}) => {
  const { proxy, pool } = await proxiedDatabase(env)
  const attempts: number[] = []
  const consumer = env.consumer({ db: pool, maxAttempts: 2 }).on(Happened, {
    work: (_, { attempt }) => {
      attempts.push(attempt)
    },
    commit: (event, _, context) => effect(event, context),
  })
  await consumer.start()
  proxy.refuse()
  proxy.cut()
  await env.append('things', numbers(3))
  // More often than an event has attempts.
  await until(async () => (await metricOf(consumer, 'retries_total', { reason: 'outage' })) > 9)
  await proxy.accept()
  await env.drained('things', 3)
  expect(attempts).toEqual([1, 1, 1])
  expect(await env.dead('things')).toEqual([])
  expect(await metricOf(consumer, 'retries_total', { reason: 'failed' })).toBe(0)
})

test('idle connections that Postgres ends do not end a worker, and a stop leaves no listener behind', async ({
  env,
}) => {
  const pool = new pg.Pool({ connectionString: env.database.url, max: 3, application_name: 'bare' })
  const consumer = env.consumer({ db: pool, concurrency: 3 }).on(Happened, effect)
  await consumer.start()
  await env.append('things', numbers(1))
  await env.drained('things', 1)
  expect(pool.listenerCount('error')).toBe(1)
  await until(() => pool.idleCount > 0 && pool.idleCount === pool.totalCount)
  await env.pool.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'bare'")
  await until(() => env.logs.some(({ msg }) => msg === 'the pool lost a connection that was not in use'))
  await env.append('things', numbers(1))
  await env.drained('things', 2)
  await consumer.stop()
  expect(pool.listenerCount('error')).toBe(0)
  await endPool(pool)
})

test('a handler that Postgres ends for idling in its transaction has failed, and holds up no other event', async ({
  env,
}) => {
  const pool = poolOf(env.database.url)
  const attempts: number[] = []
  const consumer = env.consumer({ db: pool, maxAttempts: 2 }).on(Happened, async (event, { tx, attempt }) => {
    if (event.data.n <= 2) {
      // Of these two alone: on a busy machine the others may idle for so long as well.
      await tx.query('set local idle_in_transaction_session_timeout = 200')
      if (event.data.n === 1) attempts.push(attempt)
      await until(async () => {
        const ended = await env.pool.query('select 1 from pg_stat_activity where pid = $1', [(tx as Session).processID])
        return ended.rows.length === 0
      })
    }
    // The second one asks nothing more, and returns as if nothing were.
    if (event.data.n !== 2) await effect(event, { tx })
  })
  await consumer.start()
  await env.append('things', numbers(20))
  await until(async () => (await env.dead('things')).length === 2)
  await env.drained('things', 18)
  expect(attempts).toEqual([1, 2])
  const dead = (await env.dead('things')).map(({ data, deadreason }) => [data, deadreason])
  expect(dead.sort()).toEqual([1, 2].map((n) => [`{"n":${n}}`, 'attempts_exhausted']))
  expect((await env.effects()).map(({ n }) => n).sort((a, b) => a - b)).toEqual(
    numbers(20)
      .slice(2)
      .map(({ n }) => n),
  )
  expect(await metricOf(consumer, 'retries_total', { reason: 'outage' })).toBe(0)
})

type Session = pg.PoolClient & { processID: number }

/** What stands for a group of ordered workers, and for one of unordered ones. */
const KINDS = [
  { ordered: false, group: 'billing' },
  { ordered: true, group: 'shipping' },
]

test('a stop ends while Postgres is a black hole', async ({ env }) => {
  const { proxy, pool } = await proxiedDatabase(env)
  let began = 0
  const consumers = KINDS.map((kind) =>
    env.consumer({ db: pool, concurrency: 4, ...kind }).on(Happened, async (event, context) => {
      began += 1
      await until(() => began === 2)
      // What the transaction says from here on nobody answers.
      proxy.swallow()
      await effect(event, context)
    }),
  )
  for (const consumer of consumers) await consumer.start()
  await env.append('things', numbers(1))
  await until(() => began === 2)
  const stops = consumers.map((consumer) => millisecondsOf(() => consumer.stop({ timeout: 100 })))
  expect(Math.max(...(await Promise.all(stops)))).toBeLessThan(BOUND)
  for (const consumer of consumers) expect((await consumer.stats()).state).toBe('stopped')
})

test('a stop ends while Redis is a black hole, and what it could not say its successor finds out', async ({ env }) => {
  const proxy = await proxyTo(env.server.url)
  let began = 0
  const go = new Gate()
  const consumers = KINDS.map((kind) =>
    env.consumer({ redis: proxy.url(env.server.url), ...kind }).on(Happened, async (event, { tx, signal }) => {
      began += 1
      await go.passed(signal)
      await effect(event, { tx })
    }),
  )
  for (const consumer of consumers) await consumer.start()
  await env.append('things', numbers(3), { subject: 'a' })
  // In order the first alone.
  await until(() => began === 4)
  proxy.swallow()
  const stops = consumers.map((consumer) => millisecondsOf(() => consumer.stop({ timeout: '5s' })))
  go.open()
  expect(Math.max(...(await Promise.all(stops)))).toBeLessThan(BOUND)
  for (const consumer of consumers) expect((await consumer.stats()).state).toBe('stopped')
  for (const kind of KINDS) await env.consumer(kind).on(Happened, effect).start()
  await env.drained('things', 6)
  await until(async () => (await env.pending('things', 'shipping')) === 0)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([1, 1, 2, 2, 3, 3])
})

/** A worker of batches of which the first fails; while its first event is tried alone, something happens. */
async function oneByOne(env: ConsumerEnv, during: (tx: pg.PoolClient) => Promise<unknown>) {
  const ran: string[] = []
  const consumer = env.consumer({ concurrency: 1 }).onBatch(Happened, async (events, context) => {
    ran.push(events.map(({ data }) => data.n).join())
    if (ran.length === 1) throw new Error('not all of them')
    if (ran.length === 2) await during(context.tx)
    for (const event of events) await effect(event, context)
  })
  await env.append('things', numbers(5))
  await consumer.start()
  await until(() => ran.length >= 2)
  return { ran, consumer }
}

test('of a batch that failed, what another worker has taken meanwhile is not tried one by one', async ({ env }) => {
  const hold = new Gate()
  const { ran, consumer } = await oneByOne(env, () => hold.passed())
  const entries = (await pendingOf(env.redis, 'things')).slice(1).map(({ entry }) => entry)
  await env.redis.call('XCLAIM', 'things', GROUP, 'ghost', '0', ...entries, 'JUSTID')
  await until(async () => (await metricOf(consumer, 'held')) === 1)
  hold.open()
  // The other one died: what it has comes back after claimAfter, together.
  await env.drained('things', 5)
  expect(ran).toEqual(['1,2,3,4,5', '1', '2,3,4,5'])
})

test('the events of a batch that failed are not tried one by one while the consumer is paused', async ({ env }) => {
  const hold = new Gate()
  const { ran, consumer } = await oneByOne(env, () => hold.passed())
  consumer.pause()
  hold.open()
  await until(async () => (await consumer.stats()).running === 0)
  expect(ran).toEqual(['1,2,3,4,5', '1'])
  expect(await consumer.stats()).toMatchObject({ queued: 4, waiting: 0 })
  consumer.resume()
  await env.drained('things', 5)
  expect(ran).toEqual(['1,2,3,4,5', '1', '2,3,4,5'])
})

test('the events of a batch that failed are not tried one by one against a database that cannot be used', async ({
  env,
}) => {
  const accept = 'outrider.accept(text, text, text)'
  const { ran, consumer } = await oneByOne(env, () => env.pool.query(`alter function ${accept} rename to accept_gone`))
  await until(async () => (await metricOf(consumer, 'retries_total', { reason: 'outage' })) > 0)
  await env.pool.query(`alter function outrider.accept_gone(text, text, text) rename to accept`)
  await env.drained('things', 5)
  expect(ran).toEqual(['1,2,3,4,5', '1', '2,3,4,5'])
})

test('of a batch that failed, one whose session ends when it runs alone holds up none of the others', async ({
  env,
}) => {
  const { ran, consumer } = await oneByOne(env, (tx) => tx.query('select pg_terminate_backend(pg_backend_pid())'))
  await env.drained('things', 5)
  expect(ran).toEqual(['1,2,3,4,5', '1', '2', '3', '4', '5', '1'])
  expect(await metricOf(consumer, 'retries_total', { reason: 'outage' })).toBe(1)
})

test('a schema that throws within a batch fails an attempt of its event, and none of the others', async ({ env }) => {
  const Odd = defineEvent({
    ...{ stream: 'things', type: Happened.type, version: 1 },
    data: z.object({ n: z.number() }).transform((data) => {
      if (data.n === 3) throw new RangeError('three is too many')
      return data
    }),
  })
  const batches: string[] = []
  const consumer = env.consumer({ maxAttempts: 2 }).onBatch(Odd, async (events, context) => {
    batches.push(events.map(({ data }) => data.n).join())
    for (const event of events) await effect(event, context)
  })
  await env.append('things', numbers(5))
  await consumer.start()
  await until(async () => (await env.dead('things')).length === 1)
  await env.drained('things', 4)
  expect(batches).toEqual(['1,2,4,5'])
  expect(await env.dead('things')).toMatchObject([
    {
      data: '{"n":3}',
      deadreason: 'attempts_exhausted',
      deadattempts: '2',
      deaderror: 'RangeError: three is too many',
    },
  ])
  expect(env.logs.filter(({ msg }) => msg.startsWith('a bug'))).toEqual([])
})

test('an event that a clean stop has released, and that kills each of its workers from then on, is dead after five', async ({
  env,
}) => {
  const ran: number[] = []
  const hanging = () =>
    env.consumer({ claimAfter: '300ms', concurrency: 1, prefetch: 10 }).on(Happened, async (event, { signal }) => {
      ran.push(event.data.n)
      await new Gate().passed(signal)
    })
  const first = hanging()
  await first.start()
  await env.append('things', numbers(2))
  await until(async () => ran.length === 1 && (await env.pending('things')) === 2)
  await first.stop({ timeout: 0 })
  // Begun or not, what a stop lets go of was not delivered.
  const released = await pendingOf(env.redis, 'things')
  expect(released).toMatchObject([{ deliveries: 0 }, { deliveries: 0 }])
  ran.length = 0
  await hanging().start()
  // Each call ends as with a worker that is killed: the event is pending with a dead one, and counted as it was.
  for (let kill = 1; kill <= 10; kill++) {
    await until(() => ran.length === kill)
    const { entry } = released[(ran.at(-1) as number) - 1] as { entry: string }
    await env.redis.call('XCLAIM', 'things', GROUP, 'ghost', '0', entry, 'JUSTID')
  }
  await until(async () => (await env.dead('things')).length === 2)
  expect(ran.sort()).toEqual([1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
  expect(await env.dead('things')).toMatchObject([
    { deadreason: 'crashed', deaderror: 'Its worker ended without an outcome 5 times' },
    { deadreason: 'crashed', deaderror: 'Its worker ended without an outcome 5 times' },
  ])
})
