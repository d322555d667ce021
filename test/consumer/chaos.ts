import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { waitingDueKey, waitingKey } from '../../src/event/names.js'
import { seeded } from '../../testkit/oracle/writer.js'
import { until } from '../../testkit/services/index.js'
import { backlog } from './backlog.js'
import { type ConsumerEnv, consumerTest as test } from './consumer-env.js'
import { GROUP } from './happened.js'
import { type Failpoint, WorkerProcess, widenEffects } from './worker-process.js'

const WORKERS = 3
const STREAMS = ['things', 'others']
const FAILPOINTS: Failpoint[] = ['after inbox', 'before commit', 'after commit', 'before XACK']

/** One event of so many is set aside at its first attempt. */
const WAITS_EACH = 10

/** It moves a lot, and what else the machine does is no property of it. */
const TIMEOUT_MS = 600_000
const PATIENCE_MS = 240_000

export interface ChaosSize {
  events: number
  /** Kills at each failpoint, and at random moments. */
  atEach: number
  atRandom: number
}

/** Makes what is set aside due at once, again and again. */
async function hurry({ redis }: ConsumerEnv, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    for (const key of STREAMS.map((stream) => waitingDueKey(stream, GROUP)))
      for (const id of await redis.zrange(key, '0', '-1')) await redis.zadd(key, 'XX', 1, id)
    await pause(100)
  }
}

const waitingIn = async ({ redis }: ConsumerEnv): Promise<number> => {
  const counts = await Promise.all(STREAMS.map((stream) => redis.xlen(waitingKey(stream, GROUP))))
  return counts.reduce((sum, count) => sum + count, 0)
}

/** Declares the test at this size. */
export function chaosTest({ events, atEach, atRandom }: ChaosSize): void {
  const kills = FAILPOINTS.length * atEach + atRandom

  test(`${events} events at least, ${WORKERS} workers, ${kills} kills at random and at each failpoint: every event has one effect`, {
    timeout: TIMEOUT_MS,
  }, async ({ env, onTestFinished }) => {
    const seed = Number(process.env.OUTRIDER_TEST_SEED ?? Date.now() % 1_000_000)
    console.log(`seed ${seed} (OUTRIDER_TEST_SEED repeats it)`)
    const random = seeded(seed)
    await widenEffects(env.pool)
    const all: WorkerProcess[] = []
    onTestFinished(async () => void (await Promise.all(all.map((worker) => worker.kill()))))
    const worker = (death?: { at: Failpoint; call: number; retried: boolean }) => {
      const made = new WorkerProcess({
        ...{ name: `worker-${all.length}`, postgres: env.database.url, redis: env.server.url, group: GROUP },
        ...{ streams: STREAMS, ordered: false, concurrency: 8, claimAfter: 1_500, slow: 0, death },
      })
      all.push(made)
      return made
    }
    const plans = [...FAILPOINTS.flatMap((at) => Array(atEach).fill(at)), ...Array(atRandom).fill(undefined)]
      .map((at: Failpoint | undefined, place) => ({ at, draw: random(), order: random(), retried: place % 2 === 1 }))
      .sort((one, other) => one.order - other.order)

    const hurrying = new AbortController()
    const hurried = hurry(env, hurrying.signal)
    let isKilling = true
    /** Whether there is enough for those that have still to die; before there is a group, what is there from the beginning. */
    const isEnough = async (stream: string) =>
      (await backlog(env, [stream]).catch(() => ({ left: Number.POSITIVE_INFINITY }))).left > 500
    const appending = Promise.all(
      STREAMS.map(async (stream, place) => {
        const ids: string[] = []
        // More of them where those that die late would find all to be done.
        while (ids.length < events / STREAMS.length || isKilling) {
          if (ids.length >= events / STREAMS.length && (await isEnough(stream))) {
            await pause(50)
            continue
          }
          const from = place + ids.length * STREAMS.length
          ids.push(
            ...(await env.append(
              stream,
              [...Array(500).keys()].map((n) => ({ n: from + n * STREAMS.length, waits: n % WAITS_EACH === 0 })),
            )),
          )
        }
        return ids
      }),
    )
    try {
      // Each of them is followed at once by the next. Those that live come last: they would do all before the next has begun.
      await Promise.all(
        Array.from({ length: WORKERS }, async () => {
          for (let plan = plans.pop(); plan; plan = plans.pop()) {
            const { at, draw, retried } = plan
            const doomed = worker(at && { at, call: 1 + Math.floor(draw * (retried ? 100 : 400)), retried })
            if (at) {
              await until(() => !doomed.isRunning, {
                timeout: PATIENCE_MS,
                message: () => `a death ${at}\n${doomed.tail()}`,
              })
              await doomed.ended()
            } else {
              await doomed.started()
              await pause(draw * 600)
              await doomed.kill()
            }
            expect(doomed.death?.died, doomed.tail()).toBe(at)
          }
        }),
      ).finally(() => {
        isKilling = false
      })
      const living = Array.from({ length: WORKERS }, () => worker())
      await appending
      let rest = { left: events, pending: 0, waiting: 0 }
      await until(
        async () => {
          // In this order: what leaves a stream to wait is in one of both.
          rest = { ...(await backlog(env, STREAMS)), waiting: await waitingIn(env) }
          return rest.left + rest.waiting === 0
        },
        {
          timeout: PATIENCE_MS,
          message: () =>
            `nothing to be left, found ${JSON.stringify(rest)}\n${living.map((one) => one.tail()).join('\n')}`,
        },
      )
      expect(await Promise.all(living.map((one) => one.stop()))).toEqual(living.map(() => 0))
    } finally {
      isKilling = false
      hurrying.abort()
      await hurried
    }
    const ids = (await appending).flat()

    const { rows: effects } = await env.pool.query<{ event: string; worker: string; attempt: number }>(
      'select event, worker, attempt from effect',
    )
    const doers = new Map<string, string[]>()
    for (const { event, worker } of effects) doers.set(event, [...(doers.get(event) ?? []), worker])
    expect({
      lost: ids.filter((id) => !doers.has(id)),
      doubled: ids.filter((id) => (doers.get(id)?.length ?? 0) > 1),
      invented: effects.length - ids.reduce((sum, id) => sum + (doers.get(id)?.length ?? 0), 0),
      dead: (await Promise.all(STREAMS.map((stream) => env.dead(stream)))).flat(),
      remembered: await Promise.all(STREAMS.map((stream) => env.redis.hkeys(`outrider:{${stream}}:retries:${GROUP}`))),
      retried: effects.filter(({ attempt }) => attempt === 2).length,
    }).toEqual({
      ...{ lost: [], doubled: [], invented: 0, dead: [], remembered: STREAMS.map(() => ['moved']) },
      retried: ids.length / WAITS_EACH,
    })

    // The faults bit: who died before the commit has not done the event, who died after it has, and others met what was done.
    const deaths = all.flatMap(({ name, death }) => (death ? [{ name, ...death }] : []))
    for (const at of FAILPOINTS) expect(deaths.filter(({ died }) => died === at)).toHaveLength(atEach)
    for (const { died, event, name } of deaths) {
      const committed = died === 'after commit' || died === 'before XACK'
      expect({ died, by: doers.get(event) }).toEqual({
        died,
        by: committed ? [name] : [expect.not.stringMatching(`^${name}$`)],
      })
    }
    expect(all.reduce((sum, { duplicates }) => sum + duplicates, 0)).toBeGreaterThan(0)
  })
}
