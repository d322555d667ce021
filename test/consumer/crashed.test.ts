import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, pendingOf } from './watch.js'

const script = fileURLToPath(new URL('./crash-worker.ts', import.meta.url))

/** Starts a worker that dies once so many calls have begun; `ended` resolves with the signal that ended it. `calls`: the handlers' calls as they began. */
function startWorker({ server, database }: ConsumerEnv, begun = 1) {
  const child = spawn(process.execPath, ['--import', 'tsx', script], {
    env: { ...process.env, WORKER_REDIS: server.url, WORKER_POSTGRES: database.url, WORKER_BEGUN: String(begun) },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const pid = child.pid as number
  watch(pid, 'KILL')
  const calls: { n: number; attempt: number }[] = []
  createInterface({ input: child.stdout }).on('line', (line) => calls.push(JSON.parse(line)))
  const ended = once(child, 'close').then(([, signal]) => {
    unwatch(pid)
    return signal as string | null
  })
  return { calls, ended, kill: () => child.kill('SIGKILL') }
}

test('an event that kills its worker is dead-lettered after five deliveries, and those next to it are not', async ({
  env,
}) => {
  const ids = await env.append(
    'things',
    Array.from({ length: 6 }, (_, n) => ({ n })),
  )
  const isDead = async () => (await env.dead('things')).length > 0
  const all: { n: number; attempt: number }[][] = []
  let survivor: ReturnType<typeof startWorker> | undefined
  while (!survivor && all.length < 10) {
    const worker = startWorker(env, all.length === 0 ? ids.length : 1)
    const died = await Promise.race([worker.ended, until(isDead).then(() => undefined)])
    if (died === 'SIGKILL') all.push(worker.calls)
    else survivor = worker
  }
  try {
    await env.drained('things', 5)
  } finally {
    survivor?.kill()
    await survivor?.ended
  }
  expect(all).toHaveLength(5)
  // It took its neighbours along until it was told from them.
  expect(all[0]?.map(({ n }) => n).sort()).toEqual([0, 1, 2, 3, 4, 5])
  expect(all.every((calls) => calls.some(({ n }) => n === 0))).toBe(true)
  expect(await env.dead('things')).toMatchObject([
    {
      ...{ id: ids[0], deadreason: 'crashed', deadattempts: '0' },
      deaderror: 'Its worker ended without an outcome 5 times',
    },
  ])
  expect((await env.effects()).map(({ event }) => event).sort()).toEqual(ids.slice(1).sort())
  // No attempt is charged for a worker that was killed.
  expect(new Set([...all.flat(), ...(survivor?.calls ?? [])].map(({ attempt }) => attempt))).toEqual(new Set([1]))
})

test('an event that is taken over is not charged for it until it is begun', async ({ env }) => {
  await leaveBehind(
    env.redis,
    'things',
    Array.from({ length: 5 }, (_, n) => ({ n })),
  )
  const began = new Gate()
  const consumer = env
    .consumer({ claimAfter: '200ms', concurrency: 1, prefetch: 10 })
    .on(Happened, async (event, context) => {
      began.open()
      await new Gate().passed(context.signal)
      await effect(event, context)
    })
  await consumer.start()
  await began.passed()
  await until(async () => (await consumer.stats()).queued === 4)
  expect((await pendingOf(env.redis, 'things')).map(({ deliveries }) => deliveries)).toEqual([2, 1, 1, 1, 1])
})

test('what may have killed its worker before runs with no other such next to it', async ({ env }) => {
  const entries = await leaveBehind(
    env.redis,
    'things',
    Array.from({ length: 6 }, (_, n) => ({ n })),
  )
  // Twice already.
  for (const entry of entries) {
    await env.redis.call('XCLAIM', 'things', GROUP, 'ghost', '0', entry, 'RETRYCOUNT', '2', 'JUSTID')
  }
  let side = 0
  let most = 0
  const consumer = env.consumer({ claimAfter: '200ms', concurrency: 6 }).on(Happened, async (event, context) => {
    side += 1
    most = Math.max(most, side)
    await effect(event, context)
    side -= 1
  })
  await consumer.start()
  await env.drained('things', 6)
  expect(most).toBe(1)
})

test('a failed attempt is an outcome: the deliveries are counted from the start', async ({ env }) => {
  const [entry] = (await leaveBehind(env.redis, 'things', [{ n: 1 }])) as [string]
  await env.redis.call('XCLAIM', 'things', GROUP, 'ghost', '0', entry, 'RETRYCOUNT', '4', 'JUSTID')
  let calls = 0
  const consumer = env.consumer({ claimAfter: '200ms', backoff: () => '9m' }).on(Happened, () => {
    calls += 1
    throw new Error('not yet')
  })
  await consumer.start()
  await until(async () => (await env.redis.exists('outrider:{things}:retries:billing')) === 1)
  expect(calls).toBe(1)
  expect(await pendingOf(env.redis, 'things')).toMatchObject([{ entry, deliveries: 1 }])
  expect(await env.dead('things')).toEqual([])
})

test('an event that a stop has released is counted again when it is begun', async ({ env }) => {
  let calls = 0
  const hanging = () =>
    env.consumer({ claimAfter: '200ms' }).on(Happened, async (_, { signal }) => {
      calls += 1
      await new Gate().passed(signal)
    })
  const first = hanging()
  await first.start()
  await env.append('things', [{ n: 1 }])
  await until(() => calls === 1)
  await first.stop({ timeout: 0 })
  expect(await pendingOf(env.redis, 'things')).toMatchObject([{ deliveries: 0 }])
  const second = hanging()
  await second.start()
  await until(() => calls === 2)
  // Were it killed now, the next worker must know.
  expect(await pendingOf(env.redis, 'things')).toMatchObject([{ consumer: second.name, deliveries: 1 }])
})
