import { randomUUID } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import { expect, onTestFinished } from 'vitest'
import { defineEvent } from '../../src/index.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf } from './watch.js'

/** Of the same stream, with a handler of its own. */
const Blocker = defineEvent({ ...Happened, type: 'thing.blocker' })

const done = async (env: ConsumerEnv): Promise<string[]> =>
  (await env.effects()).map(({ subject, n }) => `${subject}${n}`)

/** Ends the worker's lease as one does that took it over, and holds it for so long. */
const steal = (env: ConsumerEnv, key: string, seconds: number) =>
  env.pool.query(
    `update outrider.subscription set worker = 'other', epoch = epoch + 1, expires_at = now() + $2 * interval '1s'
     where stream_key = $1`,
    [key, seconds],
  )

const lost = (env: ConsumerEnv) => env.logs.filter(({ msg }) => msg === 'another worker holds this partition now')

/** How often Redis was asked this. */
async function calls(env: ConsumerEnv, ...commands: string[]): Promise<number> {
  const stats = await env.redis.info('commandstats')
  return commands.reduce(
    (sum, name) => sum + Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(stats)?.[1] ?? 0),
    0,
  )
}

test('what a reply that was lost with its connection has delivered is done, and before what came later', async ({
  env,
}) => {
  const proxy = await startProxy(Number(new URL(env.server.url).port))
  onTestFinished(() => proxy.close())
  const consumer = env.consumer({ redis: proxy.url(env.server.url), ordered: true }).on(Happened, effect)
  await consumer.start()
  await env.append('things', [{ n: 0 }], { subject: 'a' })
  await env.drained('things', 1)
  // Once the read that waits has ended, the next thing that the worker asks is what there is to take.
  consumer.pause()
  await until(async () => /blocked_clients:0/.test(await env.redis.info('clients')))
  await env.append('things', [{ n: 1 }], { subject: 'a' })
  proxy.pause('down')
  consumer.resume()
  await until(async () => (await env.pending('things')) === 1)
  proxy.cut()
  proxy.resume('down')
  // Redis is asked now and then, not without a pause: one look a second, and what a new connection begins with.
  const [before, began] = [await calls(env, 'xread', 'evalsha'), performance.now()]
  await wait(1_500)
  const asked = (await calls(env, 'xread', 'evalsha')) - before
  expect(asked).toBeLessThan((20 * (performance.now() - began)) / 1_500)
  await env.append('things', [{ n: 2 }], { subject: 'a' })
  await env.drained('things', 3)
  expect(await done(env)).toEqual(['a0', 'a1', 'a2'])
})

test('a batch is of one partition, whose lease it runs under', async ({ env }) => {
  await env.redis.set('outrider:{things}:partitions', 2)
  const go = new Gate()
  const batches: string[][] = []
  const consumer = env.consumer({ ordered: true, concurrency: 1 }).onBatch(Happened, async (events, context) => {
    batches.push(events.map(({ subject }) => subject as string))
    await go.passed(context.signal)
    for (const event of events) await effect(event, context)
  })
  await consumer.start()
  await env.append('things:0', [{ n: 0 }], { subject: 'p0' })
  await until(() => batches.length === 1)
  for (let n = 1; n <= 20; n++) await env.append(`things:${n % 2}`, [{ n }], { subject: `p${n % 2}` })
  await until(async () => (await consumer.stats()).queued === 20)
  go.open()
  await until(async () => (await done(env)).length === 21)
  expect(batches.map((subjects) => [...new Set(subjects)].join()).sort()).toEqual(['p0', 'p0', 'p1'])
})

test('a partition that another worker takes costs nothing of those that stay, and comes back whole', async ({
  env,
}) => {
  await env.redis.set('outrider:{things}:partitions', 2)
  const [began, go] = [new Gate(), new Gate()]
  const consumer = env
    .consumer({ ordered: true, concurrency: 1, claimAfter: '6s' })
    .on(Blocker, async (_, { signal }) => {
      began.open()
      await go.passed(signal)
    })
    .onBatch(Happened, async (events, context) => {
      for (const event of events) await effect(event, context)
    })
  await consumer.start()
  await env.append('things:1', [{ n: 0 }], { type: Blocker.type })
  await began.passed()
  await env.append('things:0', [{ n: 1 }, { n: 2 }], { subject: 'a' })
  await env.append('things:1', [{ n: 1 }, { n: 2 }], { subject: 'b' })
  await until(async () => (await consumer.stats()).queued === 4)
  // The worker does not know yet that it lost the first partition, and tries it under its old lease.
  await steal(env, 'things:0', 3_600)
  go.open()
  await until(async () => (await done(env)).length === 2)
  await until(() => lost(env).length === 1)
  await env.append('things:1', [{ n: 3 }], { subject: 'b' })
  await env.drained('things:1', 3)
  expect(await done(env)).toEqual(['b1', 'b2', 'b3'])
  await env.pool.query(`update outrider.subscription set expires_at = now() where worker = 'other'`)
  await env.append('things:0', [{ n: 3 }], { subject: 'a' })
  await env.drained('things:0', 6)
  expect((await done(env)).slice(3)).toEqual(['a1', 'a2', 'a3'])
})

test('a group that is lost before what was taken over is begun leaves the order as it was', async ({ env }) => {
  const [began, go] = [new Gate(), new Gate()]
  await leaveBehind(env.redis, 'things', [{ n: 0 }], { subject: 'b', type: Blocker.type })
  await leaveBehind(env.redis, 'things', [{ n: 1 }], { subject: 'a' })
  const consumer = env
    .consumer({ ordered: true, concurrency: 1 })
    .on(Happened, effect)
    .on(Blocker, async (_, { signal }) => {
      began.open()
      await go.passed(signal)
    })
  await consumer.start()
  await began.passed()
  await env.append('things', [{ n: 2 }], { subject: 'a' })
  await until(async () => (await consumer.stats()).queued === 2)
  await env.redis.xgroup('DESTROY', 'things', GROUP)
  go.open()
  await until(() => env.logs.some(({ msg }) => msg.startsWith('the group was missing')))
  await env.append('things', [{ n: 3 }], { subject: 'a' })
  await env.drained('things', 3)
  expect(await done(env)).toEqual(['a1', 'a2', 'a3'])
})

test.for([
  ['is done', false],
  ['fails', true],
] as const)(
  'an event that was lost and is back while its old call still runs is done once and in order; the old call %s',
  async ([, fails], { env }) => {
    const go = new Gate()
    const ran: string[] = []
    const consumer = env
      .consumer({ ordered: true, claimAfter: '1s', maxAttempts: 1 })
      .on(Happened, async (event, context) => {
        ran.push(`a${event.data.n}`)
        // The first call takes no notice of its signal.
        if (ran.length === 1) {
          await go.passed()
          if (fails) throw new Error('too late')
        }
        await effect(event, context)
      })
    await consumer.start()
    await env.append('things', [{ n: 1 }, { n: 2 }, { n: 3 }], { subject: 'a' })
    await until(async () => ran.length === 1 && (await consumer.stats()).queued === 2)
    // Taken by another, and free again at once: the worker has it anew, under a new lease.
    await steal(env, 'things', 0)
    await until(() => lost(env).length === 1)
    await until(async () => (await consumer.stats()).queued === 2)
    go.open()
    await env.drained('things', 3)
    expect(await done(env)).toEqual(['a1', 'a2', 'a3'])
    expect(ran).toEqual(fails ? ['a1', 'a1', 'a2', 'a3'] : ['a1', 'a2', 'a3'])
    expect(await env.dead('things')).toEqual([])
    expect(await consumer.stats()).toMatchObject({ running: 0, queued: 0, waiting: 0 })
  },
)

test.for([false, true])(
  'what is done, and cannot be acknowledged for long, is not taken for what kills its worker; ordered: %s',
  async (ordered, { env }) => {
    const { redis, server } = env
    const user = `worker-${randomUUID()}`
    const acl = (...rules: string[]) => redis.call('ACL', 'SETUSER', user, ...rules)
    await acl('on', '>secret', '~*', '&*', '+@all', '-xack')
    const url = Object.assign(new URL(server.url), { username: user, password: 'secret' }).href
    const consumer = env.consumer({ redis: url, ordered, claimAfter: '200ms' }).on(Happened, effect)
    await consumer.start()
    await env.append('things', [{ n: 1 }], { subject: 'a' })
    await until(async () => (await done(env)).length === 1)
    for (let time = 0; time < 8; time++) {
      // An ordered worker takes all that is pending anew with each connection, an unordered one what was idle for claimAfter.
      if (ordered) await redis.call('CLIENT', 'KILL', 'USER', user)
      const before = await calls(env, 'evalsha')
      const isBack = async () => /blocked_clients:1/.test(await redis.info('clients'))
      await until(async () => (await calls(env, 'evalsha')) >= before + (ordered ? 1 : 5) && (await isBack()))
    }
    await acl('+xack')
    await env.drained('things', 1)
    expect(await env.dead('things')).toEqual([])
    expect(await metricOf(consumer, 'duplicates_total')).toBe(0)
    await consumer.stop()
    await redis.call('ACL', 'DELUSER', user)
  },
)
