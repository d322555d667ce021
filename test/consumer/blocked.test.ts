import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate } from './watch.js'

/** Leaves the entry as five workers do that lost it one after the other, each while it was blocked. */
async function loseFiveTimes({ redis }: ConsumerEnv): Promise<void> {
  const [[entry]] = (await redis.xrange('things', '-', '+')) as [[string, string[]]]
  await redis.call(...['XCLAIM', 'things', GROUP, 'ghost', '0', entry, 'IDLE', '3600000', 'RETRYCOUNT', '5', 'JUSTID'])
}

test('a handler that blocks the event loop is warned of, with the length', async ({ env }) => {
  const consumer = env.consumer({ claimAfter: '300ms' }).on(Happened, async (event, context) => {
    await effect(event, context)
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600)
  })
  await consumer.start()
  await env.append('things', [{ n: 1 }])
  const said = () => env.logs.filter(({ msg }) => msg.startsWith('the event loop was blocked'))
  // Not the first: a machine that is busy blocks the process, too. It is found at the next tick, of which there are ten in `claimAfter`.
  const line = await until(() => said().find(({ running, blockedMs }) => running === 1 && Number(blockedMs) >= 570), {
    message: () => `a line of 570 ms, found ${JSON.stringify(said())}`,
  })
  expect(line).toMatchObject({ level: 'warn', claimAfterMs: 300 })
  await env.drained('things', 1)
})

test('an event that five workers have lost is not dead-lettered while one of them is still committing it', async ({
  env,
}) => {
  const [began, go] = [new Gate(), new Gate()]
  const first = env.consumer({ claimAfter: '1m' }).on(Happened, async (event, context) => {
    await effect(event, context)
    began.open()
    await go.passed()
  })
  await first.start()
  await env.append('things', [{ n: 1 }])
  await began.passed()
  try {
    await loseFiveTimes(env)
    await env.consumer({ claimAfter: '200ms' }).on(Happened, effect).start()
    const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    const isDead = async () => (await env.dead('things')).length > 0
    await until(async () => (await env.pool.query(waits)).rows.length > 0 || (await isDead()))
  } finally {
    go.open()
  }
  await env.drained('things', 1)
  expect(await env.dead('things')).toEqual([])
  expect(await env.effects()).toHaveLength(1)
})

test('long work on an event that was dead-lettered meanwhile is not committed', async ({ env }) => {
  const claimAfter = 200
  const [began, go] = [new Gate(), new Gate()]
  let beganAt = 0
  const first = env.consumer({ claimAfter }).on(Happened, {
    // Takes no notice of its signal, as one that blocks the event loop.
    work: async () => {
      beganAt = performance.now()
      began.open()
      await go.passed()
    },
    commit: (event, _, context) => effect(event, context),
  })
  await first.start()
  await env.append('things', [{ n: 1 }])
  await began.passed()
  // A worker that is blocked claims nothing.
  first.pause()
  try {
    await loseFiveTimes(env)
    await env.consumer({ claimAfter }).on(Happened, effect).start()
    await until(async () => (await env.dead('things')).length === 1 && performance.now() - beganAt > claimAfter)
  } finally {
    go.open()
  }
  await until(async () => (await first.stats()).running === 0)
  expect(await env.dead('things')).toMatchObject([{ deadreason: 'crashed' }])
  expect(await env.effects()).toEqual([])
})
