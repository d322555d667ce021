import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { Happened } from './happened.js'
import { Gate, metricOf } from './watch.js'

test('while work lasts no transaction is open and no connection is taken', async ({ env }) => {
  const [began, go] = [new Gate(), new Gate()]
  const consumer = env.consumer().on(Happened, {
    work: async (event, { signal }) => {
      began.open()
      await go.passed(signal)
      return event.data.n * 2
    },
    commit: (event, double, context) => effect({ ...event, data: { n: double } }, context),
  })
  await consumer.start()
  await env.append('things', [{ n: 21 }])
  await began.passed()
  // Others than the handler's come and go: of the consumer's own housekeeping, and of Postgres.
  const taken = async () => {
    const open = await env.database.query(
      "select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend' and xact_start is not null and pid <> pg_backend_pid()",
    )
    return open.length + env.pool.totalCount - env.pool.idleCount
  }
  await until(async () => (await taken()) === 0)
  go.open()
  await env.drained('things', 1)
  expect((await env.effects()).map(({ n }) => n)).toEqual([42])
})

test('work of an event that is done is not begun again', async ({ env }) => {
  let works = 0
  const consumer = env.consumer().on(Happened, {
    work: () => {
      works += 1
    },
    commit: (event, _, context) => effect(event, context),
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }], { id: 'same' })
  await env.drained('things', 1)
  await env.append('things', [{ n: 1 }], { id: 'same' })
  await until(async () => (await metricOf(consumer, 'duplicates_total')) === 1)
  await env.drained('things', 1)
  expect(works).toBe(1)
  expect(await env.effects()).toHaveLength(1)
})

test('work that fails, and a commit that fails, are attempts', async ({ env }) => {
  const steps: string[] = []
  const consumer = env.consumer().on(Happened, {
    work: (_, { attempt }) => {
      steps.push(`work ${attempt}`)
      if (attempt === 1) throw new Error('the model is out')
      return attempt
    },
    commit: async (event, result, context) => {
      steps.push(`commit ${result} ${context.attempt}`)
      await effect(event, context)
      if (context.attempt === 2) throw new Error('not so')
    },
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  await env.drained('things', 1)
  expect(steps).toEqual(['work 1', 'work 2', 'commit 2 2', 'work 3', 'commit 3 3'])
})

test('what was asked for twice under one key is worked and committed once', async ({ env }) => {
  let works = 0
  const long = {
    work: () => {
      works += 1
    },
    commit: (event: Parameters<typeof effect>[0], _: unknown, context: Parameters<typeof effect>[1]) =>
      effect(event, context),
  }
  const consumer = env.consumer({ concurrency: 1 }).on(Happened, long, { key: ({ data }) => `file-${data.n}/v1` })
  await consumer.start()
  await env.append('things', [{ n: 1 }, { n: 1 }, { n: 2 }])
  await until(async () => (await metricOf(consumer, 'processed_total')) === 3)
  await env.drained('things', 2)
  expect(works).toBe(2)
  expect((await env.effects()).map(({ n }) => n)).toEqual([1, 2])
})

test('a key that is none fails the event, and no other', async ({ env }) => {
  const key = ({ data }: { data: { n: number } }) => (data.n === 0 ? '' : `k${data.n}`)
  const consumer = env.consumer({ maxAttempts: 2 }).on(Happened, effect, { key })
  await consumer.start()
  await env.append('things', [{ n: 0 }, { n: 1 }])
  await env.drained('things', 1)
  await until(async () => (await env.dead('things')).length === 1)
  expect((await env.dead('things'))[0]?.deaderror).toContain('Expected key of the handler of thing.happened')
})
