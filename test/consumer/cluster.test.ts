import { expect, onTestFinished } from 'vitest'
import { DeadLetter } from '../../src/consumer/index.js'
import { type EntryInput, entryOf, fieldsOf } from '../../testkit/entry.js'
import { freePort, needsProcess, type Redis, startRedis, until } from '../../testkit/services/index.js'
import { type ConsumerEnv, effect, consumerTest as test } from './consumer-env.js'
import { GROUP, Happened } from './happened.js'
import { Gate, leaveBehind, pendingOf } from './watch.js'

const KEYS = ['things:0', 'things:1', 'things:2', 'things:3']

/** A cluster of one node, which has all slots: a plain client may ask it anything. */
async function startCluster(context: { skip: (reason?: string) => never }) {
  needsProcess(context, ['redis'])
  const node: Redis = await startRedis({
    settings: {
      'cluster-enabled': 'yes',
      'cluster-announce-ip': '127.0.0.1',
      // By default the port and 10,000, which somebody's outgoing connection may have.
      'cluster-port': String(await freePort()),
    },
  })
  onTestFinished(() => node.remove())
  const redis = node.client()
  onTestFinished(() => redis.disconnect())
  await redis.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
  await until(async () => String(await redis.call('CLUSTER', 'INFO')).includes('cluster_state:ok'))
  await redis.set('outrider:{things}:partitions', KEYS.length)
  return {
    redis,
    url: node.url.replace('redis:', 'redis+cluster:'),
    append: (key: string, n: number, input: EntryInput = {}) => redis.xadd(key, '*', ...entryOf({ n }, input)),
    pending: async (key: string): Promise<number> => ((await redis.xpending(key, GROUP)) as [number])[0],
    dead: async (key: string) =>
      (await redis.xrange(`outrider:{${key}}:dead:${GROUP}`, '-', '+')).map(([, fields]) => fieldsOf(fields)),
  }
}

type Cluster = Awaited<ReturnType<typeof startCluster>>

/** Of the keys, by default all, nothing is pending, and so many effects are there. */
const drained = ({ pending }: Cluster, env: ConsumerEnv, effects: number, keys = KEYS) =>
  until(
    async () => {
      const left = await Promise.all(keys.map(pending))
      return left.every((count) => count === 0) && (await env.effects()).length === effects
    },
    { message: `${effects} effects and nothing pending` },
  )

/** From here on whatever is asked of this stream is answered with WRONGTYPE. */
async function refuse({ redis }: Cluster): Promise<void> {
  await redis.rename('things:2', 'kept:{things:2}')
  await redis.set('things:2', 'of another type')
}

const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

const keyOf = (n: number) => KEYS[n % KEYS.length] as string

test('all that is in four partitions is done, once, by two workers', async ({ env, skip }) => {
  const cluster = await startCluster({ skip })
  for (const n of upTo(200)) await cluster.append(keyOf(n), n)
  for (let worker = 0; worker < 2; worker++) await env.consumer({ redis: cluster.url }).on(Happened, effect).start()
  await drained(cluster, env, 200)
  for (const n of upTo(200)) await cluster.append(keyOf(n), n)
  await drained(cluster, env, 400)
  expect(new Set((await env.effects()).map(({ event }) => event)).size).toBe(400)
})

test('the effects of each subject come in the order of its events, whoever has its partition', async ({
  env,
  skip,
}) => {
  const cluster = await startCluster({ skip })
  const workers = [0, 1].map(() =>
    env.consumer({ redis: cluster.url, ordered: true }).on(Happened, async (event, context) => {
      if (event.data.n % 7 === 3 && context.attempt === 1) throw new Error('not yet')
      await effect(event, context)
    }),
  )
  const append = async (from: number) => {
    for (const n of upTo(20)) for (const p of upTo(8)) await cluster.append(keyOf(p), from + n, { subject: `s${p}` })
  }
  await append(0)
  await workers[0]?.start()
  await until(async () => (await env.effects()).length > 20)
  await workers[1]?.start()
  await until(async () => (await workers[1]?.stats())?.partitions?.length === 2)
  await append(20)
  await drained(cluster, env, 320)
  const effects = await env.effects()
  for (const p of upTo(8)) {
    expect(effects.filter(({ subject }) => subject === `s${p}`).map(({ n }) => n)).toEqual(upTo(40))
  }
})

test('an event that fails is retried, and one that cannot be done is a dead letter next to its stream', async ({
  env,
  skip,
}) => {
  const cluster = await startCluster({ skip })
  const consumer = env.consumer({ redis: cluster.url, maxAttempts: 3 }).on(Happened, async (event, context) => {
    if (event.data.n === 1 && context.attempt < 3) throw new Error('not yet')
    if (event.data.n === 2) throw new DeadLetter('never')
    if (event.data.n === 3) throw new Error('not ever')
    await effect(event, context)
  })
  await consumer.start()
  for (const n of upTo(5)) await cluster.append(keyOf(n), n)
  await until(async () => (await cluster.dead('things:2')).length + (await cluster.dead('things:3')).length === 2)
  await drained(cluster, env, 3)
  expect(await cluster.dead('things:2')).toMatchObject([{ deadreason: 'never', data: '{"n":2}' }])
  expect(await cluster.dead('things:3')).toMatchObject([{ deadreason: 'attempts_exhausted', deadattempts: '3' }])
  expect(await cluster.redis.exists('outrider:{things:1}:retries:billing')).toBe(0)
})

test.for([false, true])(
  'a stop lets go of what it holds, for the next worker at once; ordered: %s',
  async (ordered, { env, skip }) => {
    const cluster = await startCluster({ skip })
    const began = new Gate()
    const first = env
      .consumer({ redis: cluster.url, ordered, claimAfter: '10m', concurrency: 1, prefetch: 40 })
      .on(Happened, async (_, { signal }) => {
        began.open()
        await new Gate().passed(signal)
      })
    for (const n of upTo(8)) await cluster.append(keyOf(n), n)
    await first.start()
    await began.passed()
    await until(async () => (await Promise.all(KEYS.map(cluster.pending))).every((count) => count === 2))
    await first.stop({ timeout: 0 })
    for (const key of KEYS) {
      for (const { idle, deliveries } of await pendingOf(cluster.redis, key)) {
        expect(deliveries).toBe(0)
        expect(idle).toBeGreaterThan(600_000)
      }
    }
    await env.consumer({ redis: cluster.url, ordered }).on(Happened, effect).start()
    await drained(cluster, env, 8)
    expect((await env.effects()).map(({ n }) => n).sort()).toEqual(upTo(8))
  },
)

test.for([false, true])(
  'a stream that refuses costs nothing of the others; ordered: %s',
  async (ordered, { env, skip }) => {
    const cluster = await startCluster({ skip })
    const others = KEYS.filter((key) => key !== 'things:2')
    const [began, go] = [new Gate(), new Gate()]
    const consumer = env
      .consumer({ redis: cluster.url, ordered, claimAfter: '10m' })
      .on(Happened, async (event, { tx, signal }) => {
        if (event.data.n === 2) {
          began.open()
          await go.passed(signal)
        }
        await effect(event, { tx })
      })
    await consumer.start()
    await cluster.append('things:2', 2)
    await began.passed()
    await refuse(cluster)
    // Done, and not to be acknowledged.
    go.open()
    for (const n of [4, 5, 7]) await cluster.append(keyOf(n), n)
    await drained(cluster, env, 4, others)
    // Neither does it keep the worker from what another one has left behind long ago.
    for (const n of [8, 9, 11]) {
      const [entry] = (await leaveBehind(cluster.redis, keyOf(n), [{ n }])) as [string]
      await cluster.redis.call('XCLAIM', keyOf(n), GROUP, 'ghost', '0', entry, 'IDLE', '3600000', 'JUSTID')
    }
    await drained(cluster, env, 7, others)
    await cluster.redis.rename('kept:{things:2}', 'things:2')
    await cluster.append('things:2', 10)
    await drained(cluster, env, 8)
  },
)

test('a stream that refuses does not let another worker take what runs of the others', async ({ env, skip }) => {
  const cluster = await startCluster({ skip })
  const go = new Gate()
  const ran: number[] = []
  const worker = () =>
    env.consumer({ redis: cluster.url, claimAfter: '3s' }).on(Happened, async (event, { tx, signal }) => {
      ran.push(event.data.n)
      if (event.data.n < 4) await go.passed(signal)
      await effect(event, { tx })
    })
  const [first, other] = [worker(), worker()]
  await other.start()
  other.pause()
  await first.start()
  await cluster.append('things:0', 0)
  await cluster.append('things:2', 2)
  await until(() => ran.length === 2)
  await refuse(cluster)
  // What runs goes on; what it does not keep alive the other one takes, and nobody else.
  first.pause()
  other.resume()
  // What a dead worker leaves later is claimed once no worker has kept it alive for claimAfter.
  await leaveBehind(cluster.redis, 'things:0', [{ n: 4 }])
  await until(() => ran.includes(4))
  expect(ran.sort((a, b) => a - b)).toEqual([0, 2, 4])
  expect(await pendingOf(cluster.redis, 'things:0')).toContainEqual(expect.objectContaining({ consumer: first.name }))
  go.open()
  await drained(cluster, env, 3, ['things:0'])
})
