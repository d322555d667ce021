import { expect } from 'vitest'
import { ConsumerGroup } from '../../src/redis/streams/consumer-group.js'
import { startProxy, until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, metricOf, pendingOf } from './watch.js'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => ({ n: from + n }))
const portOf = (url: string) => Number(new URL(url).port)

test('what was committed and never acknowledged has no second effect', async ({ env }) => {
  // Everything that a worker needs until it has committed, and nothing that it needs then.
  await env.redis.call('ACL', 'SETUSER', 'mute', 'on', '>secret', '~*', '&*', '+@all', '-xack')
  const ids = await env.append('things', numbers(50))
  const mute = env
    .consumer({ redis: { url: env.server.url, username: 'mute', password: 'secret' }, prefetch: 200 })
    .on(Happened, effect)
  await mute.start()
  await until(async () => (await env.effects()).length === 50)
  await mute.stop({ timeout: 0 })
  expect(await env.pending('things')).toBe(50)

  const next = env.consumer({ claimAfter: '200ms' }).on(Happened, effect)
  await next.start()
  await env.drained('things', 50)
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual(ids.sort())
  expect(await metricOf(next, 'duplicates_total')).toBe(50)
})

test('an event taken from a worker that is alive but cut off has one effect, though both run it', async ({ env }) => {
  const proxy = await startProxy(portOf(env.server.url))
  const [began, go] = [new Gate(), new Gate()]
  const slow = env
    .consumer({ redis: proxy.url(env.server.url), claimAfter: '500ms' })
    .on(Happened, async (event, context) => {
      began.open()
      await go.passed(context.signal)
      await effect(event, context)
    })
  await slow.start()
  await env.append('things', [{ n: 1 }])
  await began.passed()
  proxy.pause()
  const quick = env.consumer({ claimAfter: '500ms' }).on(Happened, effect)
  await quick.start()
  const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
  await until(async () => (await env.pool.query(waits)).rows.length > 0, {
    message: 'the second worker to wait for the inbox row of the first',
  })
  go.open()
  await env.drained('things', 1)
  expect(await env.effects()).toHaveLength(1)
  expect(await metricOf(quick, 'duplicates_total')).toBe(1)
  proxy.resume()
  await proxy.close()
})

test('long work taken from a worker that is cut off is done by both and committed by one', async ({ env }) => {
  const proxy = await startProxy(portOf(env.server.url))
  const [began, go] = [new Gate(), new Gate()]
  const commits: string[] = []
  const slow = env.consumer({ redis: proxy.url(env.server.url), claimAfter: '500ms' }).on(Happened, {
    work: async (_, { signal }) => {
      began.open()
      await go.passed(signal)
    },
    commit: (event, _, context) => {
      commits.push('slow')
      return effect(event, context)
    },
  })
  await slow.start()
  await env.append('things', [{ n: 1 }])
  await began.passed()
  proxy.pause()
  const quick = env.consumer({ claimAfter: '500ms' }).on(Happened, {
    work: () => {},
    commit: (event, _, context) => {
      commits.push('quick')
      return effect(event, context)
    },
  })
  await quick.start()
  await env.drained('things', 1)
  go.open()
  await until(async () => (await metricOf(slow, 'duplicates_total')) === 1)
  expect(commits).toEqual(['quick'])
  expect(await env.effects()).toHaveLength(1)
  proxy.resume()
  await proxy.close()
})

test('a handler that takes longer than claimAfter keeps its event', async ({ env }) => {
  const [began, go] = [new Gate(), new Gate()]
  const doers: string[] = []
  const slow = env.consumer({ claimAfter: '3s', prefetch: 1 }).on(Happened, async (event, context) => {
    doers.push(`slow ${event.data.n}`)
    began.open()
    await go.passed(context.signal)
    await effect(event, context)
  })
  await slow.start()
  await env.append('things', [{ n: 0 }])
  await began.passed()
  slow.pause()
  const quick = env.consumer({ claimAfter: '3s' }).on(Happened, async (event, context) => {
    doers.push(`quick ${event.data.n}`)
    await effect(event, context)
  })
  // What another worker has left later is taken only after claimAfter: so long the slow one has kept its own.
  await leaveBehind(env.redis, 'things', [{ n: 1 }])
  await quick.start()
  await until(async () => (await env.effects()).length === 1)
  await until(async () => (await env.pending('things')) === 1)
  expect(await pendingOf(env.redis, 'things')).toMatchObject([{ consumer: slow.name, deliveries: 1 }])
  slow.resume()
  go.open()
  await env.drained('things', 2)
  expect(doers).toEqual(['slow 0', 'quick 1'])
})

test('entries that were trimmed while they were pending are acknowledged, counted and told of', async ({ env }) => {
  const ghosts = await leaveBehind(env.redis, 'things', numbers(3))
  await env.append('things', numbers(2, 3))
  await env.redis.xtrim('things', 'MAXLEN', 2)
  const consumer = env.consumer({ claimAfter: '200ms' }).on(Happened, effect)
  await consumer.start()
  await env.drained('things', 2)
  expect((await env.effects()).map(({ n }) => n).sort()).toEqual([3, 4])
  // Redis drops them before the worker hears of it.
  await until(async () => (await metricOf(consumer, 'trimmed_total', { stream: 'things' })) === 3)
  const told = env.logs.filter(({ level, msg }) => level === 'error' && msg.includes('trimmed'))
  expect(told.map(({ entry }) => entry)).toEqual(ghosts)
})

test('the name of a dead worker goes once nothing is pending with it, and not before', async ({ env }) => {
  await leaveBehind(env.redis, 'things', numbers(2), { name: 'dead' })
  const group = new ConsumerGroup('things', GROUP, 'undertaker')
  const names = async () =>
    ((await env.redis.xinfo('CONSUMERS', 'things', GROUP)) as unknown[][]).map((info) => info[1])
  expect(await group.removeIdleConsumers(env.redis, 0)).toBe(0)
  expect(await names()).toEqual(['dead'])
  const consumer = env.consumer({ claimAfter: '200ms' }).on(Happened, effect)
  await consumer.start()
  await env.drained('things', 2)
  await consumer.stop()
  expect(await names()).toEqual(['dead'])
  expect(await group.removeIdleConsumers(env.redis, 0)).toBe(1)
  expect(await names()).toEqual([])
})
