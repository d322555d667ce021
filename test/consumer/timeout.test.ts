import pg from 'pg'
import { expect } from 'vitest'
import { defineEvent } from '../../src/index.js'
import { until } from '../../testkit/services/index.js'
import { effect, endPool, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { Gate, metricOf } from './watch.js'

const numbers = (count: number) => Array.from({ length: count }, (_, n) => ({ n: n + 1 }))

test('a handler that exceeds its timeout is aborted and rolled back, and an attempt has failed', async ({ env }) => {
  const aborted: string[] = []
  const consumer = env.consumer({ maxAttempts: 2 }).on(
    Happened,
    async (event, context) => {
      const { tx, attempt, signal } = context
      signal.addEventListener('abort', () => aborted.push(`${event.data.n} ${attempt}`))
      await effect(event, context)
      if (event.data.n === 1) await new Gate().passed()
      if (event.data.n === 2) await tx.query('select pg_sleep(60)')
      if (event.data.n === 3) await new Gate().passed(signal)
      if (attempt === 1) await new Gate().passed()
    },
    // The fourth one is done within it at its second attempt, also where the machine is busy.
    { timeout: '1s' },
  )
  await consumer.start()
  await env.append('things', numbers(4))
  await until(async () => (await env.dead('things')).length === 3)
  await env.drained('things', 1)
  expect((await env.effects()).map(({ n }) => n)).toEqual([4])
  for (const dead of await env.dead('things')) {
    expect(dead).toMatchObject({ deadreason: 'attempts_exhausted', deadattempts: '2' })
    expect(dead.deaderror).toContain('HandlerTimeoutError: Expected the handler to end within 1000 ms')
  }
  expect(aborted.sort()).toEqual(['1 1', '1 2', '2 1', '2 2', '3 1', '3 2', '4 1'])
  // Nor does the server continue with what no one waits for.
  const sleeping = "select pid from pg_stat_activity where datname = current_database() and query like '%pg_sleep(60)'"
  await until(async () => (await env.pool.query(sleeping)).rowCount === 0)
})

test('timeout limits work and commit each, and a batch', async ({ env }) => {
  const hang = (signal: AbortSignal) => new Gate().passed(signal)
  const [Long, Batch] = ['longs', 'batches'].map((stream) => defineEvent({ ...Happened, stream, type: stream })) as [
    typeof Happened,
    typeof Happened,
  ]
  const committed: number[] = []
  const consumer = env
    .consumer({ maxAttempts: 2 })
    .on(
      Long,
      {
        work: async ({ data: { n } }, { signal }) => (n === 1 ? hang(signal) : undefined),
        commit: async (event, _, context) => {
          committed.push(event.data.n)
          await effect(event, context)
          if (event.data.n === 2) await hang(context.signal)
        },
      },
      { timeout: '1s' },
    )
    .onBatch(
      Batch,
      async (events, context) => {
        for (const event of events) await effect(event, context)
        if (events.some(({ data }) => data.n === 2)) await hang(context.signal)
      },
      { timeout: '1s' },
    )
  for (const { stream, type } of [Long, Batch]) await env.append(stream, numbers(3), { type })
  await consumer.start()
  await until(async () => (await env.dead('longs')).length === 2 && (await env.dead('batches')).length === 1)
  for (const { stream } of [Long, Batch]) await until(async () => (await env.pending(stream)) === 0)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([1, 3, 3])
  // What was not done in time was not committed.
  expect(committed.sort()).toEqual([2, 2, 3])
  for (const dead of [...(await env.dead('longs')), ...(await env.dead('batches'))]) {
    expect(dead).toMatchObject({ deadreason: 'attempts_exhausted', deadattempts: '2' })
    expect(dead.deaderror).toContain('HandlerTimeoutError: Expected the handler to end within 1000 ms')
  }
})

test('handlers that wait for the pool which their own transactions use up are reported', async ({ env }) => {
  const pool = new pg.Pool({ connectionString: env.database.url, max: 2 })
  const options = { db: pool, concurrency: 2, maxAttempts: 1 }
  const consumer = env.consumer(options).on(Happened, () => pool.query('select 1'), { timeout: '6s' })
  await consumer.start()
  await env.append('things', numbers(2))
  let oldest = 0
  await until(async () => {
    oldest = Math.max(oldest, await metricOf(consumer, 'oldest_running_seconds'))
    return (await metricOf(consumer, 'pool_starved_total')) > 0
  })
  expect(oldest).toBeGreaterThan(0.9)
  expect(env.logs.filter(({ msg }) => msg.startsWith('handlers wait for a connection of the pool'))).toMatchObject([
    { level: 'warn', waiting: 2, running: 2 },
  ])
  await until(async () => (await env.pending('things')) === 0)
  await consumer.stop()
  await endPool(pool)
})
