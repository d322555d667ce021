import pg from 'pg'
import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
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
    { timeout: '300ms' },
  )
  await consumer.start()
  await env.append('things', numbers(4))
  await until(async () => (await env.dead('things')).length === 3)
  await env.drained('things', 1)
  expect((await env.effects()).map(({ n }) => n)).toEqual([4])
  for (const dead of await env.dead('things')) {
    expect(dead).toMatchObject({ deadreason: 'attempts_exhausted', deadattempts: '2' })
    expect(dead.deaderror).toContain('HandlerTimeoutError: Expected the handler to end within 300 ms')
  }
  expect(aborted.sort()).toEqual(['1 1', '1 2', '2 1', '2 2', '3 1', '3 2', '4 1'])
  // Nor does the server continue with what no one waits for.
  const sleeping = "select pid from pg_stat_activity where datname = current_database() and query like '%pg_sleep(60)'"
  await until(async () => (await env.pool.query(sleeping)).rowCount === 0)
})

test('handlers that wait for the pool which their own transactions use up are reported', async ({ env }) => {
  const pool = new pg.Pool({ connectionString: env.database.url, max: 2 })
  const options = { db: pool, concurrency: 2, maxAttempts: 1 }
  const consumer = env.consumer(options).on(Happened, () => pool.query('select 1'), { timeout: '3s' })
  await consumer.start()
  await env.append('things', numbers(2))
  await until(async () => (await metricOf(consumer, 'pool_starved_total')) > 0)
  expect(await metricOf(consumer, 'oldest_running_seconds')).toBeGreaterThan(0.9)
  expect(env.logs.filter(({ msg }) => msg.startsWith('handlers wait for a connection of the pool'))).toMatchObject([
    { level: 'warn', waiting: 2, running: 2 },
  ])
  await until(async () => (await env.pending('things')) === 0)
  await consumer.stop()
  await pool.end()
})
