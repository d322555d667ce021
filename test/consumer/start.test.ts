import pg from 'pg'
import { expect, onTestFinished } from 'vitest'
import { defineEvent } from '../../src/index.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { effect, GROUP, Happened, type Stage, test } from './fixture.js'

/** How many connections Redis has, this test's own not counted. */
async function connections(stage: Stage): Promise<number> {
  const list = String(await stage.redis.call('CLIENT', 'LIST'))
  return list.trim().split('\n').length - 1
}

const gone = (stage: Stage) =>
  until(async () => (await connections(stage)) === 0, { timeout: 20_000, message: 'no connection of a worker' })

/** Makes whatever is recorded of a group fail, as if the worker died before it. */
async function breakRecords(stage: Stage): Promise<() => Promise<unknown>> {
  await stage.pool.query(`
    create function die() returns trigger language plpgsql as $$ begin raise 'died'; end $$;
    create trigger die before insert on outrider.subscription for each statement execute function die()`)
  return () => stage.pool.query('drop function die() cascade')
}

test('of three workers that start at once from now, none begins at what was there before', async ({ stage }) => {
  for (let trial = 0; trial < 20; trial++) {
    const stream = `trial-${trial}`
    await stage.append(stream, [{ n: -1 }, { n: -1 }])
    const event = defineEvent({ ...Happened, stream })
    const workers = [0, 1, 2].map(() => stage.consumer({ startFrom: 'now', concurrency: 1 }).on(event, effect))
    await Promise.all(workers.map((worker) => worker.start()))
    await stage.append(stream, [{ n: trial }])
  }
  await until(async () => (await stage.effects()).length >= 20, { timeout: 20_000 })
  for (let trial = 0; trial < 20; trial++) await stage.drained(`trial-${trial}`, 20)
  const found = (await stage.effects()).map(({ n }) => n)
  expect(found.sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, n) => n))
  expect(stage.logs.filter(({ msg }) => msg.startsWith('the group was missing'))).toEqual([])
})

test('a worker that dies between making its group and recording it leaves a group that begins where it said', async ({
  stage,
}) => {
  await stage.append('things', [{ n: 1 }, { n: 2 }])
  const mend = await breakRecords(stage)
  await expect(stage.consumer({ startFrom: 'now' }).on(Happened, effect).start()).rejects.toThrow('died')
  await mend()
  await stage.append('things', [{ n: 3 }])
  const workers = [0, 1, 2].map(() => stage.consumer({ startFrom: 'now' }).on(Happened, effect))
  await Promise.all(workers.map((worker) => worker.start()))
  await stage.drained('things', 1)
  expect((await stage.effects()).map(({ n }) => n)).toEqual([3])
  // By now it is recorded: what Redis loses of it begins anew at the beginning.
  await stage.redis.xgroup('DESTROY', 'things', GROUP)
  await stage.drained('things', 3)
  expect((await stage.effects()).map(({ n }) => n).sort()).toEqual([1, 2, 3])
})

test('a start that fails leaves no connection open, and the next one begins where it said', async ({ stage }) => {
  await stage.append('things', [{ n: 1 }])
  const mend = await breakRecords(stage)
  const consumer = stage.consumer().on(Happened, effect)
  await expect(consumer.start()).rejects.toThrow('died')
  await gone(stage)
  await mend()
  await consumer.start()
  await stage.drained('things', 1)
})

test('stopped while Redis does not answer, a start ends, and leaves no connection', async ({ stage }) => {
  const proxy = await startProxy(Number(new URL(stage.server.url).port))
  onTestFinished(() => proxy.close())
  const consumer = stage.consumer({ redis: proxy.url(stage.server.url) }).on(Happened, effect)
  proxy.pause('down')
  const started = expect(consumer.start()).rejects.toThrow('The consumer was stopped while it started')
  await until(async () => (await connections(stage)) > 0, { timeout: 20_000 })
  await consumer.stop()
  proxy.resume('down')
  await started
  await gone(stage)
})

test('stopped while Postgres does not answer, a start ends, and leaves no connection', async ({ stage }) => {
  const [holder, pool] = [await stage.database.connect(), new pg.Pool({ connectionString: stage.database.url })]
  onTestFinished(() => pool.end())
  pool.on('error', () => {})
  await holder.query('begin; lock table outrider.subscription in access exclusive mode')
  const consumer = stage.consumer({ db: pool }).on(Happened, effect)
  const started = expect(consumer.start()).rejects.toThrow('The consumer was stopped while it started')
  await until(() => pool.totalCount > pool.idleCount, { timeout: 20_000 })
  await consumer.stop()
  await holder.query('rollback')
  await holder.end()
  await started
  await gone(stage)
  expect(stage.logs.map(({ msg }) => msg)).not.toContain('the consumer has started')
})

test('stopped at whatever moment of its start, a worker has started or says that it was stopped, and is gone', async ({
  stage,
}) => {
  const outcomes = await Promise.all(
    Array.from({ length: 16 }, async (_, n) => {
      const consumer = stage.consumer({ ordered: n % 2 === 1, group: `group-${n % 2}` }).on(Happened, effect)
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
  await gone(stage)
})

test('a run without a signal ends with a stop', async ({ stage }) => {
  const consumer = stage.consumer().on(Happened, effect)
  const ran = consumer.run()
  await stage.append('things', [{ n: 1 }])
  await stage.drained('things', 1)
  await consumer.stop()
  await ran
  expect((await consumer.stats()).state).toBe('stopped')
  await gone(stage)
})
