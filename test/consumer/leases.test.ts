import pg from 'pg'
import { expect } from 'vitest'
import { Retry } from '../../src/consumer/index.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, endPool, consumerTest as test } from './consumer-env.js'
import { Gate } from './gate.js'
import { GROUP, Happened } from './happened.js'

const LOST = 'another worker holds this partition now'

const partition = ({ redis }: ConsumerEnv, partitions: number) => redis.set('outrider:{things}:partitions', partitions)

const subscription = async ({ pool }: ConsumerEnv, key = 'things'): Promise<{ epoch: number; expires_at: Date }> => {
  const text = 'select epoch::int, expires_at from outrider.subscription where consumer_group = $1 and stream_key = $2'
  return (await pool.query(text, [GROUP, key])).rows[0]
}

/** The effects of one subject, in order. */
const doneOf = async (env: ConsumerEnv, subject: string): Promise<number[]> =>
  (await env.effects()).flatMap((done) => (done.subject === subject ? [done.n] : []))

const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

/** What each of them holds, once it is so many partitions. */
const shares = async (
  env: ConsumerEnv,
  expected: number[],
  ...consumers: ReturnType<ConsumerEnv['consumer']>[]
): Promise<string[][]> => {
  let found: string[][] = []
  await until(
    async () => {
      const stats = await Promise.all(consumers.map((consumer) => consumer.stats()))
      found = stats.map(({ partitions }) => partitions ?? [])
      return found.every(({ length }, place) => length === expected[place])
    },
    {
      message: () => `shares of ${expected}, found ${JSON.stringify(found)}\n${JSON.stringify(env.logs.slice(-10))}`,
    },
  )
  return found
}

test('a worker that joins is given its share of the partitions, and one that leaves gives its own back', async ({
  env,
}) => {
  await partition(env, 4)
  // Nobody waits for a lease to run out.
  const options = { ordered: true, claimAfter: '1m' }
  const [first, second] = [1, 2].map(() => env.consumer(options).on(Happened, effect)) as [
    ReturnType<ConsumerEnv['consumer']>,
    ReturnType<ConsumerEnv['consumer']>,
  ]
  await first.start()
  await shares(env, [4], first)
  await second.start()
  const [one = [], other = []] = await shares(env, [2, 2], first, second)
  expect([...one, ...other].sort()).toEqual(upTo(4).map((n) => `things:${n}`))
  for (const n of upTo(4)) await env.append(`things:${n}`, [{ n }], { subject: `s${n}` })
  for (const n of upTo(4)) await env.drained(`things:${n}`, 4)
  await second.stop()
  await shares(env, [4], first)
  for (const n of upTo(4)) await env.append(`things:${n}`, [{ n: n + 4 }], { subject: `s${n}` })
  for (const n of upTo(4)) await env.drained(`things:${n}`, 8)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual(upTo(8))
})

/** Two workers of which the first is to give a partition to the second, and cannot, because a handler runs in each. */
async function handover(env: ConsumerEnv) {
  await partition(env, 2)
  const gate = new Gate()
  let outcome = () => {}
  let begun = 0
  const [first, second] = [1, 2].map(() =>
    // No lease of theirs runs out while the process gets no processor.
    env.consumer({ ordered: true, claimAfter: '6s' }).on(Happened, async (event, context) => {
      if (event.subject === 'slow') {
        begun += 1
        await gate.wait(context.signal)
        outcome()
      }
      await effect(event, context)
    }),
  ) as [ReturnType<ConsumerEnv['consumer']>, ReturnType<ConsumerEnv['consumer']>]
  const append = async (n: number, subject: string) => {
    for (const place of upTo(2)) await env.append(`things:${place}`, [{ n }], { subject })
  }
  await first.start()
  await append(0, 'slow')
  await until(() => begun === 2)
  await append(1, 'slow')
  await second.start()
  // What is to be given back is not read any more.
  let appended = 0
  await until(async () => {
    await append(appended++, 'quick')
    return (await first.stats()).streams.some(({ lag }) => lag !== undefined && lag > 3)
  })
  const end = (how: () => void) => {
    outcome = how
    gate.open()
  }
  return { first, second, end, appended, begun: () => begun }
}

test('an event that fails while its partition is given to another worker does not keep it back', async ({ env }) => {
  const { first, second, end, appended, begun } = await handover(env)
  end(() => {
    throw new Retry({ after: '1h' })
  })
  await shares(env, [1, 1], first, second)
  await until(async () => (await doneOf(env, 'quick')).length === 2 * appended)
  // The other worker waits for the end of that hour, too.
  expect(begun()).toBe(2)
  expect(await doneOf(env, 'slow')).toEqual([])
})

test('a partition stays, with all that was released, when the worker that it was meant for leaves', async ({ env }) => {
  const { first, second, end, appended } = await handover(env)
  await second.stop()
  await until(async () => (await doneOf(env, 'quick')).length === 2 * appended)
  end(() => {})
  for (const key of ['things:0', 'things:1']) await env.drained(key, 2 * appended + 4)
  expect(await doneOf(env, 'slow')).toHaveLength(4)
  await shares(env, [2], first)
  for (const key of ['things:0', 'things:1']) expect((await subscription(env, key)).epoch).toBe(1)
})

test('a new holder takes over all that is pending, in order, before anything that is new', async ({ env }) => {
  await partition(env, 2)
  const keys = ['things:0', 'things:1']
  for (const [place, key] of keys.entries()) {
    await env.redis.xgroup('CREATE', key, GROUP, '0', 'MKSTREAM')
    for (const n of upTo(40)) for (const s of upTo(10)) void env.append(key, [{ n }], { subject: `${place}.${s}` })
    // Workers that have died with what they had, more of it than there is room for at once.
    for (const n of upTo(6)) {
      await env.redis.xreadgroup('GROUP', GROUP, `dead-${n % 2}`, 'COUNT', 50, 'STREAMS', key, '>')
    }
    expect(await env.pending(key)).toBe(300)
  }
  const consumer = env.consumer({ ordered: true, concurrency: 4, prefetch: 5 }).on(Happened, effect)
  await consumer.start()
  for (const key of keys) await env.drained(key, 800)
  for (const place of upTo(2)) {
    for (const s of upTo(10)) expect(await doneOf(env, `${place}.${s}`)).toEqual(upTo(40))
  }
})

test('what another worker has taken over meanwhile is refused, and that is no attempt', async ({ env }) => {
  const gate = new Gate()
  let running = false
  const attempts: number[] = []
  // An attempt more than the first would find it dead-lettered. Leases are looked at every two seconds.
  const consumer = env
    .consumer({ ordered: true, maxAttempts: 1, claimAfter: '1m' })
    .on(Happened, async (event, context) => {
      attempts.push(context.attempt)
      running = true
      await gate.wait(context.signal)
      await effect(event, context)
    })
  await consumer.start()
  await env.append(
    'things',
    upTo(5).map((n) => ({ n })),
    { subject: 'a' },
  )
  await until(() => running)
  const { expires_at } = await subscription(env)
  await until(async () => (await subscription(env)).expires_at > expires_at)
  const lease =
    'update outrider.subscription set worker = $2, epoch = epoch + $3, expires_at = $4 where consumer_group = $1'
  await env.pool.query(lease, [GROUP, 'somebody else', 1, new Date(Date.now() + 3_600_000)])
  gate.open()
  await until(() => env.logs.some(({ msg }) => msg === LOST))
  // The first had its inbox row before: whoever has the lease by now waits for that one.
  expect(await doneOf(env, 'a')).toEqual([0])
  await env.pool.query(lease, [GROUP, null, 0, null])
  await env.drained('things', 5)
  expect(await doneOf(env, 'a')).toEqual(upTo(5))
  expect(attempts).toEqual([1, 1, 1, 1, 1])
  expect(await env.dead('things')).toEqual([])
})

test('a database that was restored, and has forgotten epochs, is overtaken by what Redis knows', async ({ env }) => {
  const fence = 'outrider:{things}:fence:billing'
  await env.redis.set(fence, 40)
  await env.append('things', [{ n: 0 }, { n: 1 }], { subject: 'a' })
  const consumer = env.consumer({ ordered: true }).on(Happened, effect)
  await consumer.start()
  await env.drained('things', 2)
  expect((await subscription(env)).epoch).toBe(41)
  await env.pool.query('update outrider.subscription set epoch = 3')
  await until(() => env.logs.some(({ msg }) => msg === LOST))
  await env.append('things', [{ n: 2 }, { n: 3 }], { subject: 'a' })
  await env.drained('things', 4)
  expect(await doneOf(env, 'a')).toEqual(upTo(4))
  expect((await subscription(env)).epoch).toBe(42)
  expect(await env.redis.get(fence)).toBe('42')
})

test('an epoch never falls, however late a worker hears that its own is over', async ({ env }) => {
  const consumer = env.consumer({ ordered: true, claimAfter: '1m' }).on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }], { subject: 'a' })
  await env.drained('things', 1)
  const { expires_at } = await subscription(env)
  await until(async () => (await subscription(env)).expires_at > expires_at)
  // As if it had been away, while others held the partition and gave it back.
  await env.pool.query('update outrider.subscription set epoch = 10')
  await env.redis.set('outrider:{things}:fence:billing', 5)
  await env.append('things', [{ n: 1 }], { subject: 'a' })
  await env.drained('things', 2)
  expect((await subscription(env)).epoch).toBe(11)
})

test('a worker that could not renew its lease, because the database was away, continues when it is back', async ({
  env,
  onTestFinished,
}) => {
  const proxy = await startProxy(Number(new URL(env.database.url).port))
  onTestFinished(() => proxy.close())
  const pool = new pg.Pool({ connectionString: proxy.url(env.database.url), connectionTimeoutMillis: 1_000 })
  pool.on('error', () => {})
  onTestFinished(() => endPool(pool))
  const consumer = env.consumer({ db: pool, ordered: true, claimAfter: '500ms' }).on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }], { subject: 'a' })
  await env.drained('things', 1)
  proxy.refuse()
  proxy.cut()
  await until(async () => (await subscription(env)).expires_at < new Date())
  await env.append('things', [{ n: 1 }, { n: 2 }], { subject: 'a' })
  await until(() => env.logs.some(({ msg }) => msg.includes('leases could not be renewed')))
  await proxy.accept()
  await env.drained('things', 3)
  expect(await doneOf(env, 'a')).toEqual(upTo(3))
  await until(async () => (await subscription(env)).expires_at > new Date())
  // Nobody else wanted it.
  expect((await subscription(env)).epoch).toBe(1)
})
