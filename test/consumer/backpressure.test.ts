import type pg from 'pg'
import { expect } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
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

test('so many handlers run at once as concurrency says, of each kind and of all', async ({ env }) => {
  const [all, heavy] = [new Meter(), new Meter()]
  const go = new Gate()
  const work = async (event: { id: string; data: unknown }, context: { tx: pg.PoolClient; signal: AbortSignal }) => {
    await go.passed(context.signal)
    await effect(event, context)
  }
  const consumer = env
    .consumer({ concurrency: 6 })
    .on(Happened, all.around(work))
    .on(Heavy, heavy.around(all.around(work)), { concurrency: 2 })
  for (let round = 0; round < 50; round++) {
    await env.append('things', numbers(4, round * 4), { type: round % 2 === 0 ? Happened.type : Heavy.type })
  }
  await consumer.start()
  await until(() => all.now === 6 && heavy.now === 2)
  go.open()
  await env.drained('things', 200)
  expect([all.most, heavy.most]).toEqual([6, 2])
})

test('a handler at its cap does not keep the others from work, of its own stream and of another', async ({ env }) => {
  const go = new Gate()
  const Slow = defineEvent({ stream: 'slow', type: 'thing.slow', version: 1, data: z.object({ n: z.number() }) })
  const consumer = env
    .consumer()
    .on([Slow, Heavy], async (_, { signal }) => go.passed(signal), { concurrency: 1 })
    .on(Happened, effect)
  await env.append('slow', numbers(300), { type: Slow.type })
  await env.append('things', numbers(300), { type: Heavy.type })
  await env.append('things', numbers(5))
  await consumer.start()
  await until(async () => (await env.effects()).length === 5)
  go.open()
})

test('small events run next to large ones that take long, also behind one that waits for its bytes', async ({
  env,
}) => {
  const go = new Gate()
  let large = 0
  const consumer = env.consumer({ concurrency: 6 }).on(Happened, async (event, context) => {
    if (event.data.n < 3) {
      large += 1
      await go.passed(context.signal)
    }
    await effect(event, context)
  })
  for (const { n } of numbers(3)) await env.append('things', [{ n, pad: 'x'.repeat(3 * 2 ** 20) }])
  await env.append('things', numbers(50, 3))
  await consumer.start()
  await until(async () => (await env.effects()).length === 50)
  // Of 9 MiB, 8 run at once.
  expect(large).toBe(2)
  go.open()
  await env.drained('things', 53)
})

test('no more is taken from Redis than prefetch says', async ({ env }) => {
  const go = new Gate()
  const consumer = env.consumer({ concurrency: 3, prefetch: 12 }).on(Happened, async (event, context) => {
    await go.passed(context.signal)
    await effect(event, context)
  })
  await env.append('things', numbers(500))
  await consumer.start()
  // Redis counts them as pending before the worker has its reply.
  await until(async () => (await consumer.stats()).queued === 9)
  expect(await consumer.stats()).toMatchObject({ running: 3, queued: 9, waiting: 0 })
  expect(await env.pending('things')).toBe(12)
  expect(await metricOf(consumer, 'held')).toBe(12)
  let most = 0
  go.open()
  await until(async () => {
    most = Math.max(most, await env.pending('things'))
    return (await env.effects()).length === 500
  })
  // What is done and not acknowledged yet is pending, too, and not held any more.
  expect(most).toBeLessThanOrEqual(12 + 12)
  await env.drained('things', 500)
})

test('while it is paused nothing is begun or read, and nothing is taken from it', async ({ env }) => {
  const consumer = env.consumer({ claimAfter: '3s' }).on(Happened, effect)
  await env.append('things', numbers(5))
  await consumer.start()
  await env.drained('things', 5)
  consumer.pause()
  expect((await consumer.stats()).state).toBe('paused')
  // The read that was under way gets the first; the others it leaves alone.
  await env.append('things', [{ n: 5 }])
  await until(async () => (await env.pending('things')) === 1)
  await env.append('things', numbers(50, 6))
  const other = env.consumer({ claimAfter: '3s', group: 'shipping' }).on(Happened, () => {})
  await other.start()
  await until(async () => (await metricOf(other, 'processed_total')) === 56)
  expect(await env.pending('things')).toBe(1)
  expect(await env.effects()).toHaveLength(5)
  // Another worker of the group takes what is new, and leaves what the paused one has.
  const mate = env.consumer({ claimAfter: '3s' }).on(Happened, effect)
  await mate.start()
  await until(async () => (await env.effects()).length === 55)
  // What a dead one has left it takes only after claimAfter, and so it would have what the paused one forgot before.
  await leaveBehind(env.redis, 'things', [{ n: 56 }])
  await until(async () => (await env.effects()).length === 56)
  await until(async () => (await env.pending('things')) === 1)
  expect(await pendingOf(env.redis, 'things')).toMatchObject([{ consumer: consumer.name, deliveries: 1 }])
  await mate.stop()
  consumer.resume()
  await env.drained('things', 57)
  expect((await env.effects()).at(-1)?.n).toBe(5)
})

test('a new group begins where startFrom says', async ({ env }) => {
  const done = new Map<string, number[]>()
  const begin = async (group: string, startFrom: 'beginning' | 'now' | Date) => {
    done.set(group, [])
    const consumer = env.consumer({ group, startFrom, concurrency: 1 }).on(Happened, (event) => {
      done.get(group)?.push(event.data.n)
    })
    await consumer.start()
  }
  const at = Date.now() - 60_000
  const { redis } = env
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
  await until(() => [...done.values()].every((ns) => ns.includes(5)))
  expect(Object.fromEntries(done)).toEqual({ all: [1, 2, 3, 4, 5], late: [5], dated: [2, 3, 4, 5] })
})

test('a known group that Redis has lost begins at the first entry, whatever startFrom says', async ({ env }) => {
  const first = env.consumer({ startFrom: 'now' }).on(Happened, effect)
  await first.start()
  await env.append('things', numbers(10))
  await env.drained('things', 10)
  await first.stop()
  await env.redis.xgroup('DESTROY', 'things', GROUP)
  await env.append('things', numbers(10, 10))
  const next = env.consumer({ startFrom: 'now' }).on(Happened, effect)
  await next.start()
  await env.drained('things', 20)
  expect(await env.effects()).toHaveLength(20)
  expect(await metricOf(next, 'duplicates_total')).toBe(10)
})

test('a new group begins at the end for all of its workers that start together', async ({ env }) => {
  await env.append('things', numbers(20))
  const proxy = await startProxy(Number(new URL(env.server.url).port))
  const lock = await env.database.connect()
  await lock.query('begin; lock table outrider.subscription')
  const first = env.consumer({ startFrom: 'now', redis: proxy.url(env.server.url) }).on(Happened, effect)
  const started = first.start()
  const isWaiting = async () => {
    const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return (await env.pool.query(waits)).rows.length > 0
  }
  await until(isWaiting, { message: 'the first worker to ask the database' })
  // The database answers the first one, and Redis does not: the second comes in between.
  proxy.pause()
  await lock.query('commit')
  await lock.end()
  await until(async () => !(await isWaiting()))
  const second = env.consumer({ startFrom: 'now' }).on(Happened, effect)
  await second.start()
  proxy.resume()
  await started
  await env.append('things', [{ n: 20 }])
  await env.drained('things', 1)
  expect((await env.effects()).map(({ n }) => n)).toEqual([20])
  await first.stop()
  await proxy.close()
})
