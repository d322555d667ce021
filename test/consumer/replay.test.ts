import { expect } from 'vitest'
import { deadLetters } from '../../src/cli/dead-letters.js'
import { DeadLetter } from '../../src/consumer/index.js'
import { deadKey } from '../../src/event/names.js'
import { findDeadStreams, replayDeadLetters } from '../../src/redis/streams/dead-letters.js'
import { until } from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { metricOf } from './watch.js'

test('dead letters that are replayed twice while workers run have one effect each', async ({ env }) => {
  let mended = false
  const workers = [1, 2].map(() =>
    env.consumer().on(Happened, async (event, context) => {
      if (!mended && event.data.n % 2 === 0) throw new DeadLetter('a bug of ours')
      await effect(event, context)
    }),
  )
  for (const worker of workers) await worker.start()
  const ids = await env.append(
    'things',
    Array.from({ length: 40 }, (_, n) => ({ n })),
  )
  await env.drained('things', 20)
  await until(async () => (await env.dead('things')).length === 20)
  const letters = await env.redis.xrange(deadKey('things', GROUP), '-', '+')
  mended = true
  const replay = async () => {
    let done = 0
    const streams = await findDeadStreams(env.redis, { group: GROUP })
    for await (const outcome of replayDeadLetters(env.redis, streams, { group: GROUP })) done += outcome.done
    return done
  }
  const [one, two] = await Promise.all([replay(), replay()])
  expect(one + two).toBe(20)
  // And once more, as a person does by hand who does not know of it.
  for (const [, fields] of letters) await env.redis.xadd('things', '*', ...fields)
  await env.drained('things', 40)
  const duplicates = async () => {
    const counts = await Promise.all(workers.map((worker) => metricOf(worker, 'duplicates_total')))
    return counts.reduce((sum, count) => sum + count, 0)
  }
  await until(async () => (await duplicates()) === 20)
  await env.drained('things', 40)
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual(ids.sort())
  expect(await env.dead('things')).toEqual([])
})

test('a dead letter that was discarded is not processed when a repair puts its event back', async ({ env }) => {
  let isMended = false
  const worker = env.consumer().on(Happened, async (event, context) => {
    if (!isMended) throw new DeadLetter('a bug of ours')
    await effect(event, context)
  })
  await worker.start()
  const [id = ''] = await env.append('things', [{ n: 1 }])
  await until(async () => (await env.dead('things')).length === 1)
  const [[, fields] = ['', []]] = await env.redis.xrange(deadKey('things', GROUP), '-', '+')
  isMended = true
  const discard = {
    args: ['discard', id],
    answer: true,
    config: { redis: { url: env.server.url, connectTimeout: 5_000 } },
  }
  expect((await runCommand(deadLetters, env.database.url, discard)).text).toMatch(/1 of 1 discarded\.$/)
  await env.redis.xadd('things', '*', ...fields)
  await until(async () => (await metricOf(worker, 'duplicates_total')) === 1)
  expect(await env.effects()).toEqual([])
})
