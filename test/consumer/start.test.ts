import pg from 'pg'
import { expect, onTestFinished } from 'vitest'
import { defineEvent } from '../../src/index.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, endPool, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'

/** How many connections Redis has, this test's own not counted. */
async function connections(env: ConsumerEnv): Promise<number> {
  const list = String(await env.redis.call('CLIENT', 'LIST'))
  return list.trim().split('\n').length - 1
}

const gone = (env: ConsumerEnv) =>
  until(async () => (await connections(env)) === 0, { message: 'no connection of a worker' })

/** Makes whatever is recorded of a group fail, as if the worker died before it. */
async function breakRecords(env: ConsumerEnv): Promise<() => Promise<unknown>> {
  await env.pool.query(`
    create function die() returns trigger language plpgsql as $$ begin raise 'died'; end $$;
    create trigger die before insert on outrider.subscription for each statement execute function die()`)
  return () => env.pool.query('drop function die() cascade')
}

test('of three workers that start at once from now, none begins at what was there before', async ({ env }) => {
  for (let trial = 0; trial < 20; trial++) {
    const stream = `trial-${trial}`
    await env.append(stream, [{ n: -1 }, { n: -1 }])
    const event = defineEvent({ ...Happened, stream })
    const workers = [0, 1, 2].map(() => env.consumer({ startFrom: 'now', concurrency: 1 }).on(event, effect))
    await Promise.all(workers.map((worker) => worker.start()))
    await env.append(stream, [{ n: trial }])
  }
  await until(async () => (await env.effects()).length >= 20)
  for (let trial = 0; trial < 20; trial++) await env.drained(`trial-${trial}`, 20)
  const found = (await env.effects()).map(({ n }) => n)
  expect(found.sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, n) => n))
  expect(env.logs.filter(({ msg }) => msg.startsWith('the group was missing'))).toEqual([])
})

test('a worker that dies between making its group and recording it leaves a group that begins where it said', async ({
  env,
}) => {
  await env.append('things', [{ n: 1 }, { n: 2 }])
  const mend = await breakRecords(env)
  await expect(env.consumer({ startFrom: 'now' }).on(Happened, effect).start()).rejects.toThrow('died')
  await mend()
  await env.append('things', [{ n: 3 }])
  const workers = [0, 1, 2].map(() => env.consumer({ startFrom: 'now' }).on(Happened, effect))
  await Promise.all(workers.map((worker) => worker.start()))
  await env.drained('things', 1)
  expect((await env.effects()).map(({ n }) => n)).toEqual([3])
  // By now it is recorded: what Redis loses of it begins anew at the beginning.
  await env.redis.xgroup('DESTROY', 'things', GROUP)
  await env.drained('things', 3)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([1, 2, 3])
})

test('a start that fails leaves no connection open, and the next one begins where it said', async ({ env }) => {
  await env.append('things', [{ n: 1 }])
  const mend = await breakRecords(env)
  const consumer = env.consumer().on(Happened, effect)
  await expect(consumer.start()).rejects.toThrow('died')
  await gone(env)
  await mend()
  await consumer.start()
  await env.drained('things', 1)
})

test('stopped while Redis does not answer, a start ends, and leaves no connection', async ({ env }) => {
  const proxy = await startProxy(Number(new URL(env.server.url).port))
  onTestFinished(() => proxy.close())
  const consumer = env.consumer({ redis: proxy.url(env.server.url) }).on(Happened, effect)
  proxy.pause('down')
  const started = expect(consumer.start()).rejects.toThrow('The consumer was stopped while it started')
  await until(async () => (await connections(env)) > 0)
  await consumer.stop()
  proxy.resume('down')
  await started
  await gone(env)
})

test('stopped while Postgres does not answer, a start ends, and leaves no connection', async ({ env }) => {
  const [holder, pool] = [await env.database.connect(), new pg.Pool({ connectionString: env.database.url })]
  onTestFinished(() => endPool(pool))
  pool.on('error', () => {})
  await holder.query('begin; lock table outrider.subscription in access exclusive mode')
  const consumer = env.consumer({ db: pool }).on(Happened, effect)
  const started = expect(consumer.start()).rejects.toThrow('The consumer was stopped while it started')
  await until(() => pool.totalCount > pool.idleCount)
  await consumer.stop()
  await holder.query('rollback')
  await holder.end()
  await started
  await gone(env)
  expect(env.logs.map(({ msg }) => msg)).not.toContain('the consumer has started')
})

test('stopped at whatever moment of its start, a worker has started or says that it was stopped, and is gone', async ({
  env,
}) => {
  const outcomes = await Promise.all(
    Array.from({ length: 16 }, async (_, n) => {
      const consumer = env.consumer({ ordered: n % 2 === 1, group: `group-${n % 2}` }).on(Happened, effect)
      const started = consumer.start().then(
        () => 'started',
        (error: Error) => error.message,
      )
      // The moments are many and spread; which one it is does not matter.
      const after = performance.now() + 10 * n
      await until(() => performance.now() >= after)
      await consumer.stop()
      return started
    }),
  )
  expect(new Set(['started', 'The consumer was stopped while it started', ...outcomes]).size).toBe(2)
  await gone(env)
})

test('a run without a signal ends with a stop', async ({ env }) => {
  const consumer = env.consumer().on(Happened, effect)
  const ran = consumer.run()
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  await consumer.stop()
  await ran
  expect((await consumer.stats()).state).toBe('stopped')
  await gone(env)
})

test('a connection to Redis that is lost while the consumer starts is made once more', async ({ env }) => {
  // The start has looked for its groups, and waits to ask for what is recorded of them.
  const holder = await env.pool.connect()
  await holder.query('begin; lock table outrider.subscription in access exclusive mode')
  const consumer = env.consumer().on(Happened, effect)
  const starting = consumer.start()
  const waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
  await until(async () => (await env.pool.query(waits)).rowCount, { message: 'the start to be held' })
  await env.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await gone(env)
  await holder.query('commit')
  holder.release()
  await starting
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
})
