import type pg from 'pg'
import { expect } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { effect, GROUP, Happened, test } from './fixture.js'
import { Gate, leaveBehind, metricOf, pendingOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

const Heavy = defineEvent({ stream: 'things', type: 'thing.heavy', version: 1, data: z.object({ n: z.number() }) })

/** Counts calls side by side. */
class Meter {
  now = 0
  most = 0

  around<Args extends unknown[]>(run: (...args: Args) => Promise<void>): (...args: Args) => Promise<void> {
    return async (...args) => {
      this.now += 1
      this.most = Math.max(this.most, this.now)
      try {
        await run(...args)
      } finally {
        this.now -= 1
      }
    }
  }
}

test('so many handlers run at once as concurrency says, of each kind and of all', async ({ stage }) => {
  const [all, heavy] = [new Meter(), new Meter()]
  const go = new Gate()
  const work = async (event: { id: string; data: unknown }, context: { tx: pg.PoolClient; signal: AbortSignal }) => {
    await go.passed(context.signal)
    await effect(event, context)
  }
  const consumer = stage
    .consumer({ concurrency: 6 })
    .on(Happened, all.around(work))
    .on(Heavy, heavy.around(all.around(work)), { concurrency: 2 })
  for (let round = 0; round < 50; round++) {
    await stage.append('things', numbers(4, round * 4), { type: round % 2 === 0 ? Happened.type : Heavy.type })
  }
  await consumer.start()
  await until(() => all.now === 6 && heavy.now === 2, { timeout: 20_000 })
  go.open()
  await stage.drained('things', 200)
  expect([all.most, heavy.most]).toEqual([6, 2])
})

test('a handler at its cap does not keep the others from work, of its own stream and of another', async ({ stage }) => {
  const go = new Gate()
  const Slow = defineEvent({ stream: 'slow', type: 'thing.slow', version: 1, data: z.object({ n: z.number() }) })
  const consumer = stage
    .consumer()
    .on([Slow, Heavy], async (_, { signal }) => go.passed(signal), { concurrency: 1 })
    .on(Happened, effect)
  await stage.append('slow', numbers(300), { type: Slow.type })
  await stage.append('things', numbers(300), { type: Heavy.type })
  await stage.append('things', numbers(5))
  await consumer.start()
  await until(async () => (await stage.effects()).length === 5, { timeout: 20_000 })
  go.open()
})

test('no more is taken from Redis than prefetch says', async ({ stage }) => {
  const go = new Gate()
  const consumer = stage.consumer({ concurrency: 3, prefetch: 12 }).on(Happened, async (event, context) => {
    await go.passed(context.signal)
    await effect(event, context)
  })
  await stage.append('things', numbers(500))
  await consumer.start()
  await until(async () => (await stage.pending('things')) === 12, { timeout: 20_000 })
  expect(await consumer.stats()).toMatchObject({ running: 3, queued: 9, waiting: 0 })
  expect(await metricOf(consumer, 'held')).toBe(12)
  let most = 0
  go.open()
  await until(
    async () => {
      most = Math.max(most, await stage.pending('things'))
      return (await stage.effects()).length === 500
    },
    { timeout: 20_000 },
  )
  // What is done and not acknowledged yet is pending, too, and not held any more.
  expect(most).toBeLessThanOrEqual(12 + 12)
  await stage.drained('things', 500)
})

test('while it is paused nothing is begun or read, and nothing is taken from it', async ({ stage }) => {
  const consumer = stage.consumer({ claimAfter: '500ms' }).on(Happened, effect)
  await stage.append('things', numbers(5))
  await consumer.start()
  await stage.drained('things', 5)
  consumer.pause()
  expect((await consumer.stats()).state).toBe('paused')
  // The read that was under way gets the first; the others it leaves alone.
  await stage.append('things', [{ n: 5 }])
  await until(async () => (await stage.pending('things')) === 1, { timeout: 20_000 })
  await stage.append('things', numbers(50, 6))
  const other = stage.consumer({ claimAfter: '500ms', group: 'shipping' }).on(Happened, () => {})
  await other.start()
  await until(async () => (await metricOf(other, 'processed_total')) === 56, { timeout: 20_000 })
  expect(await stage.pending('things')).toBe(1)
  expect(await stage.effects()).toHaveLength(5)
  // Another worker of the group takes what is new, and leaves what the paused one has.
  const mate = stage.consumer({ claimAfter: '500ms' }).on(Happened, effect)
  await mate.start()
  await until(async () => (await stage.effects()).length === 55, { timeout: 20_000 })
  // What a dead one has left it takes only after claimAfter, and so it would have what the paused one forgot.
  for (const n of [56, 57]) {
    await leaveBehind(stage.redis, 'things', [{ n }])
    await until(async () => (await stage.effects()).length === n, { timeout: 20_000 })
  }
  await until(async () => (await stage.pending('things')) === 1)
  expect(await pendingOf(stage.redis, 'things')).toMatchObject([{ consumer: consumer.name, deliveries: 1 }])
  await mate.stop()
  consumer.resume()
  await stage.drained('things', 58)
  expect((await stage.effects()).at(-1)?.n).toBe(5)
})

test('a new group begins where startFrom says', async ({ stage }) => {
  const done = new Map<string, number[]>()
  const begin = async (group: string, startFrom: 'beginning' | 'now' | Date) => {
    done.set(group, [])
    const consumer = stage.consumer({ group, startFrom, concurrency: 1 }).on(Happened, (event) => {
      done.get(group)?.push(event.data.n)
    })
    await consumer.start()
  }
  const at = Date.now() - 60_000
  const { redis } = stage
  const add = (id: string, n: number) =>
    redis.xadd(
      'things',
      id,
      ...[
        'id',
        `e${n}`,
        'source',
        '/shop',
        'type',
        Happened.type,
        'time',
        new Date().toISOString(),
        'data',
        `{"n":${n}}`,
      ],
    )
  await add(`${at - 1}-9`, 1)
  await add(`${at}-0`, 2)
  await add(`${at}-1`, 3)
  await add(`${at + 1}-0`, 4)
  await begin('all', 'beginning')
  await begin('late', 'now')
  await begin('dated', new Date(at))
  await add('*', 5)
  await until(() => [...done.values()].every((ns) => ns.includes(5)), { timeout: 20_000 })
  expect(Object.fromEntries(done)).toEqual({ all: [1, 2, 3, 4, 5], late: [5], dated: [2, 3, 4, 5] })
})

test('a known group that Redis has lost begins at the first entry, whatever startFrom says', async ({ stage }) => {
  const first = stage.consumer({ startFrom: 'now' }).on(Happened, effect)
  await first.start()
  await stage.append('things', numbers(10))
  await stage.drained('things', 10)
  await first.stop()
  await stage.redis.xgroup('DESTROY', 'things', GROUP)
  await stage.append('things', numbers(10, 10))
  const next = stage.consumer({ startFrom: 'now' }).on(Happened, effect)
  await next.start()
  await stage.drained('things', 20)
  expect(await stage.effects()).toHaveLength(20)
  expect(await metricOf(next, 'duplicates_total')).toBe(10)
})

test('a new group begins at the end for all of its workers that start together', async ({ stage }) => {
  await stage.append('things', numbers(20))
  const proxy = await startProxy(Number(new URL(stage.server.url).port))
  const lock = await stage.database.connect()
  await lock.query('begin; lock table outrider.subscription')
  const first = stage.consumer({ startFrom: 'now', redis: proxy.url(stage.server.url) }).on(Happened, effect)
  const started = first.start()
  const isWaiting = async () => {
    const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return (await stage.pool.query(waits)).rows.length > 0
  }
  await until(isWaiting, { timeout: 20_000, message: 'the first worker to ask the database' })
  // The database answers the first one, and Redis does not: the second comes in between.
  proxy.pause()
  await lock.query('commit')
  await lock.end()
  await until(async () => !(await isWaiting()), { timeout: 20_000 })
  const second = stage.consumer({ startFrom: 'now' }).on(Happened, effect)
  await second.start()
  proxy.resume()
  await started
  await stage.append('things', [{ n: 20 }])
  await stage.drained('things', 1)
  expect((await stage.effects()).map(({ n }) => n)).toEqual([20])
  await first.stop()
  await proxy.close()
})
