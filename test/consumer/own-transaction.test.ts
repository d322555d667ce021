import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { metricOf } from './watch.js'

const numbers = (count: number, from = 1) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

const withCode = (code: string) => Object.assign(new Error('of an API'), { code })

/** A statement that fails as one would that waits for a lock, meets a deadlock, or is sent to a replica. */
const failing = (code: string) => `do $$ begin raise 'as if' using errcode = '${code}'; end $$`

test('an error of another database, or with the code of one, is an attempt of the event', async ({ env }) => {
  const failures: Record<number, () => unknown> = {
    1: () => env.pool.query(failing('25006')),
    2: () => env.pool.query(failing('55P03')),
    3: () => Promise.reject(withCode('53300')),
    4: () => Promise.reject(withCode('40001')),
    5: () => Promise.reject(withCode('57P01')),
    6: () => Promise.reject(new Error('Connection terminated unexpectedly')),
  }
  const runs: number[] = []
  const consumer = env.consumer({ maxAttempts: 2 }).on(Happened, async (event, context) => {
    runs.push(event.data.n)
    await effect(event, context)
    await failures[event.data.n]?.()
  })
  await consumer.start()
  await env.append('things', numbers(7))
  await until(async () => (await env.dead('things')).length === 6)
  await env.drained('things', 1)
  expect(runs.sort()).toEqual([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7])
  expect(await metricOf(consumer, 'retries_total', { reason: 'outage' })).toBe(0)
  expect(await metricOf(consumer, 'retries_total', { reason: 'conflict' })).toBe(0)
})

test('in order, an error of another database costs attempts, and its subject continues behind the dead letter', async ({
  env,
}) => {
  const runs: string[] = []
  const consumer = env.consumer({ ordered: true, maxAttempts: 3 }).on(Happened, async (event, context) => {
    runs.push(`${event.subject} ${event.data.n} ${context.attempt}`)
    await effect(event, context)
    if (event.data.n === 1) await env.pool.query(failing('55P03'))
    if (event.data.n === 2) throw withCode('57P01')
  })
  await env.append('things', numbers(3), { subject: 's1' })
  await env.append('things', numbers(1, 4), { subject: 's2' })
  await consumer.start()
  await until(async () => (await env.dead('things')).length === 2)
  await env.drained('things', 2)
  expect(runs.filter((run) => run.startsWith('s1'))).toEqual([
    's1 1 1',
    's1 1 2',
    's1 1 3',
    's1 2 1',
    's1 2 2',
    's1 2 3',
    's1 3 1',
  ])
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([3, 4])
  expect(await metricOf(consumer, 'retries_total', { reason: 'conflict' })).toBe(0)
  expect(await metricOf(consumer, 'retries_total', { reason: 'outage' })).toBe(0)
})

test('a conflict that a savepoint has saved the transaction from is no attempt', async ({ env }) => {
  const attempts: number[] = []
  const consumer = env.consumer({ maxAttempts: 1 }).on(Happened, async (event, context) => {
    const { tx, attempt } = context
    attempts.push(attempt)
    if (attempts.length < 3) {
      await tx.query('savepoint nested')
      const failed = await tx.query(failing('40P01')).catch((error) => error)
      await tx.query('rollback to savepoint nested')
      throw new Error('could not book', { cause: failed })
    }
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', numbers(1))
  await env.drained('things', 1)
  expect(attempts).toEqual([1, 1, 1])
})

test('an event that always meets a conflict, or whose session always ends, is dead after ten, and holds up no other', async ({
  env,
}) => {
  const runs: number[] = []
  const consumer = env.consumer({ maxAttempts: 1 }).on(Happened, async (event, context) => {
    const { tx } = context
    runs.push(event.data.n)
    if (event.data.n === 1) await tx.query(failing('55P03'))
    if (event.data.n === 2) await tx.query('select pg_terminate_backend(pg_backend_pid())')
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', numbers(2))
  await until(() => runs.length > 10)
  await env.append('things', numbers(20, 3))
  await until(async () => (await env.dead('things')).length === 2)
  await env.drained('things', 20)
  expect(runs.filter((n) => n <= 2).sort()).toEqual([...Array(10).fill(1), ...Array(10).fill(2)])
  const dead = await env.dead('things')
  expect(dead.map(({ deadreason, deadattempts }) => [deadreason, deadattempts])).toEqual([
    ['attempts_exhausted', '1'],
    ['attempts_exhausted', '1'],
  ])
  expect(env.logs.filter(({ msg }) => msg.startsWith('the database cannot be used'))).toEqual([])
})

test('of a batch, the event that always meets a conflict is charged, and none of the others', async ({ env }) => {
  const consumer = env.consumer({ maxAttempts: 1, concurrency: 1 }).onBatch(Happened, async (events, context) => {
    if (events.some(({ data }) => data.n === 2)) await context.tx.query(failing('55P03'))
    for (const event of events) await effect(event, context)
  })
  await env.append('things', numbers(5))
  await consumer.start()
  await until(async () => (await env.dead('things')).length > 0)
  await env.drained('things', 4)
  expect((await env.dead('things')).map(({ data }) => data)).toEqual(['{"n":2}'])
})
