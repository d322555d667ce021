import pg from 'pg'
import { expect } from 'vitest'
import { z } from 'zod'
import type { Consumer } from '../../src/consumer/consumer.js'
import { defineEvent } from '../../src/index.js'
import { migrate } from '../../src/postgres/setup/migrate.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, endPool, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { Gate, metricOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))

/** Nothing was held against any event. */
async function unblamed(
  env: ConsumerEnv,
  consumer: Consumer<pg.PoolClient>,
  attempts: readonly number[],
): Promise<void> {
  expect(await env.dead('things')).toEqual([])
  expect(new Set(attempts)).toEqual(new Set([1]))
  expect(await metricOf(consumer, 'retries_total', { reason: 'failed' })).toBe(0)
  expect(await env.redis.exists('outrider:{things}:retries:billing')).toBe(0)
}

test('a deadlock of two handlers is no attempt of either', async ({ env }) => {
  await env.pool.query('create table account (id int primary key, n int default 0)')
  await env.pool.query('insert into account values (0), (1)')
  const attempts: number[] = []
  const locked = [new Gate(), new Gate()]
  const consumer = env.consumer({ maxAttempts: 1 }).on(Happened, async (event, context) => {
    const { tx, attempt, signal } = context
    attempts.push(attempt)
    const [mine, other] = event.data.n === 0 ? [0, 1] : [1, 0]
    await tx.query('update account set n = n + 1 where id = $1', [mine])
    locked[mine]?.open()
    await locked[other]?.passed(signal)
    await tx.query('update account set n = n + 1 where id = $1', [other])
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', numbers(2))
  await env.drained('things', 2)
  expect(await metricOf(consumer, 'retries_total', { reason: 'conflict' })).toBeGreaterThan(0)
  expect((await env.pool.query('select n from account')).rows).toEqual([{ n: 2 }, { n: 2 }])
  await unblamed(env, consumer, attempts)
})

test('a thousand events that meet conflicts are not all held, and keep no other stream from being read', async ({
  env,
}) => {
  const Other = defineEvent({ stream: 'others', type: 'thing.other', version: 1, data: z.object({ n: z.number() }) })
  let isFree = true
  const consumer = env
    .consumer({ prefetch: 20, backoff: () => 500 })
    .on(Happened, async (event, context) => {
      if (!isFree) await context.tx.query("do $$ begin raise 'as if' using errcode = '40001'; end $$")
      await effect(event, context)
    })
    .on(Other, effect)
  // Of each of so many handlers a worker holds fewer that wait.
  for (let n = 0; n < 100; n++) consumer.on({ ...Other, type: `thing.${n}` }, effect)
  await consumer.start()
  await env.append('things', numbers(20))
  await env.drained('things', 20)
  isFree = false
  // Many times what is held: a busy machine takes 10 ms for each.
  await env.append('things', numbers(1_000))
  let held = 0
  await until(async () => {
    held = Math.max(held, await metricOf(consumer, 'held'))
    // After ten conflicts an attempt has failed: on a slow machine the breaker opens before.
    const isOpen = (await metricOf(consumer, 'breaker_open', { type: Happened.type })) === 1
    return isOpen || (await metricOf(consumer, 'retries_total', { reason: 'conflict' })) >= 1_000
  })
  // 25 that wait at most, and what is queued and claimed ahead.
  expect(held).toBeLessThan(250)
  await env.append('others', numbers(100), { type: Other.type })
  await env.drained('others', 120)
  expect(await env.dead('things')).toEqual([])
})

test('a serialisation failure is no attempt', async ({ env }) => {
  const attempts: number[] = []
  const consumer = env.consumer({ maxAttempts: 1 }).on(Happened, async (event, context) => {
    attempts.push(context.attempt)
    if (attempts.length < 4) await context.tx.query("do $$ begin raise 'as if' using errcode = '40001'; end $$")
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(attempts).toHaveLength(4)
  await unblamed(env, consumer, attempts)
})

test('an inbox row that another session holds is waited for, again and again', async ({ env }) => {
  await env.pool.query("alter function outrider.accept(text, text, text) set lock_timeout = '200ms'")
  const other = await env.database.connect()
  await other.query('begin')
  await other.query("select outrider.accept('billing', '/shop', 'held')")
  const attempts: number[] = []
  const consumer = env.consumer({ maxAttempts: 1 }).on(Happened, async (event, context) => {
    attempts.push(context.attempt)
    await effect(event, context)
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }], { id: 'held' })
  await until(async () => (await metricOf(consumer, 'retries_total', { reason: 'conflict' })) >= 3)
  expect(await env.pending('things')).toBe(1)
  // The neighbours do not wait with it.
  await env.append('things', numbers(20, 2))
  await until(async () => (await env.effects()).length === 20)
  await other.query('rollback')
  await other.end()
  await env.drained('things', 21)
  await unblamed(env, consumer, attempts)
})

test('a session that is ended in mid-handler is no attempt', async ({ env }) => {
  const attempts: number[] = []
  const consumer = env.consumer({ maxAttempts: 1 }).on(Happened, async (event, context) => {
    attempts.push(context.attempt)
    await effect(event, context)
    if (attempts.length > 2) return
    const { rows } = await context.tx.query('select pg_backend_pid() as pid')
    await env.pool.query('select pg_terminate_backend($1)', [rows[0].pid])
    // Once in a statement, once in the commit.
    if (attempts.length === 1) await context.tx.query('select pg_sleep(20)')
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(attempts).toHaveLength(3)
  expect(await env.effects()).toHaveLength(1)
  expect(await metricOf(consumer, 'retries_total', { reason: 'outage' })).toBe(2)
  await unblamed(env, consumer, attempts)
})

test('while the database is down nothing is lost, blamed, acknowledged or read', async ({ env, skip }) => {
  needsProcess({ skip }, ['postgres'])
  const postgres = await startPostgres()
  const database = await postgres.createDatabase('workers')
  const owner = await database.connect()
  await migrate(owner, { only: 'inbox' })
  await owner.query('create table effect (seq bigserial, event text, n int, subject text)')
  await owner.end()
  const pool = new pg.Pool({ connectionString: database.url, max: 10, connectionTimeoutMillis: 2_000 })
  pool.on('error', () => {})
  try {
    const attempts: number[] = []
    const consumer = env.consumer({ db: pool, maxAttempts: 1, prefetch: 20 }).on(Happened, async (event, context) => {
      attempts.push(context.attempt)
      await effect(event, context)
    })
    await consumer.start()
    await env.append('things', numbers(100))
    const count = async () => (await pool.query('select count(*)::int as n from effect')).rows[0].n as number
    await until(async () => (await count()) === 100 && (await env.pending('things')) === 0)
    await postgres.stop('fast')
    await env.append('things', numbers(200, 100))
    await until(async () => (await metricOf(consumer, 'retries_total', { reason: 'outage' })) > 20)
    const held = await env.pending('things')
    expect(held).toBeGreaterThan(0)
    expect(held).toBeLessThanOrEqual(20)
    expect(env.logs.filter(({ msg }) => msg.startsWith('the database cannot be used'))).toHaveLength(1)
    await postgres.start()
    await until(async () => (await count()) === 300 && (await env.pending('things')) === 0)
    expect(new Set((await pool.query('select event from effect')).rows.map(({ event }) => event)).size).toBe(300)
    await until(() => env.logs.some(({ msg }) => msg === 'the database can be used again'))
    await unblamed(env, consumer, attempts)
    await consumer.stop()
  } finally {
    await endPool(pool)
    await postgres.remove()
  }
})

test('reading stops while the database cannot be used', async ({ env }) => {
  const consumer = env.consumer({ prefetch: 5_000 }).on(Happened, effect)
  await consumer.start()
  // What the library itself asks for fails, as with a privilege that was taken away.
  await env.pool.query('alter function outrider.accept(text, text, text) rename to accept_gone')
  await env.append('things', [{ n: 0 }])
  await until(async () => (await metricOf(consumer, 'retries_total', { reason: 'outage' })) >= 5)
  let appended = 1
  // The read that was under way gets one more; what comes behind it is left alone, unless the database is tried meanwhile.
  const isLeft = async () => {
    const before = await env.pending('things')
    for (let n = 0; n < 50; n++) await env.append('things', [{ n: appended++ }])
    return (await env.pending('things')) <= before + 1
  }
  let left = false
  for (let round = 0; round < 40 && !left; round++) left = await isLeft()
  expect(left).toBe(true)
  await env.pool.query('alter function outrider.accept_gone(text, text, text) rename to accept')
  await env.drained('things', appended)
  expect(await env.dead('things')).toEqual([])
})
