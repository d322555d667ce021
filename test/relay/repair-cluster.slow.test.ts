import { expect } from 'vitest'
import { headKey } from '../../src/event/names.js'
import {
  cutOff,
  needsProcess,
  type Redis,
  type RedisCluster,
  startRedisCluster,
  until,
} from '../../testkit/services/index.js'
import { type TopologyEnv, topologyTest as test } from './repair-topology-env.js'

/** The streams on the master that has `orders`, of three masters with equal ranges. */
const TOGETHER = ['orders', 'payments:2']

type Env = TopologyEnv<RedisCluster>

const flush = ({ redis }: Env) => redis.masterOf('orders').command('FLUSHALL')

/** Until a node has answered so more often than before. */
async function answers(node: Redis, error: string): Promise<() => Promise<void>> {
  const count = async () => {
    const info = String(await node.command('INFO', 'errorstats'))
    return Number(new RegExp(`^errorstat_${error}:count=(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  }
  const before = await count()
  return async () => {
    await until(async () => (await count()) > before, { message: `a node to answer ${error}` })
  }
}

/** Holds the repair of what FLUSHALL of one master has taken when some of it is put back. */
async function holdInMidRepair(env: Env): Promise<void> {
  await env.repair.hold('after the first rows')
  await flush(env)
  await env.repair.reached('after the first rows')
  await until(async () => (await env.entries(TOGETHER)) > 0, { message: 'the first events to be put back' })
}

test('FLUSHALL of one master of three: its streams alone are lost, and put back', async ({ start, skip }) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster())
  await flush(env)
  expect(await env.finish()).toMatchObject([{ reason: 'stream_behind' }])
  expect(await env.lostStreams()).toEqual(TOGETHER)
})

test('a replica without the last events is promoted: they are put back', async ({ start, skip }) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster({ replicas: 1 }))
  await cutOff(env.redis.replicaOf('orders'))
  await env.confirmed(100)
  await env.redis.takeOver('orders')
  expect(await env.finish()).toMatchObject([{ reason: 'stream_behind' }])
  expect(await env.lostStreams()).toEqual(TOGETHER)
})

test('in mid-repair a replica is promoted that has nothing of what was put back', async ({ start, skip }) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster({ replicas: 1 }))
  await env.repair.hold('before heads are moved', 'after the first rows')
  await flush(env)
  await env.repair.reached('before heads are moved')
  await cutOff(env.redis.replicaOf('orders'))
  await env.repair.release('before heads are moved')
  await env.repair.reached('after the first rows')
  await until(async () => (await env.entries(TOGETHER)) > 0, { message: 'the first events to be put back' })
  await env.redis.takeOver('orders')
  await env.repair.release('after the first rows')
  await env.finish()
  expect(env.repairs()).toBeGreaterThan(1)
})

test('in mid-repair a master dies, and its replica is promoted that has a part of what was put back', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster({ replicas: 1 }))
  const { redis, repair } = env
  await holdInMidRepair(env)
  const [dead, replica] = [redis.masterOf('orders'), redis.replicaOf('orders')]
  await cutOff(replica)
  const entries = await env.entries(TOGETHER)
  await repair.release('after the first rows')
  await until(async () => (await env.entries(TOGETHER)) > entries, { message: 'more events to be put back' })
  await redis.noticesFailures()
  await dead.kill()
  await redis.promoted('orders')
  // It follows the new one.
  await dead.start()
  await env.finish()
})

test('in mid-repair a replica is promoted that has what was lost, and nothing of the repair', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster({ replicas: 1 }))
  await cutOff(env.redis.replicaOf('orders'))
  await env.confirmed(50)
  await holdInMidRepair(env)
  await env.redis.takeOver('orders')
  await env.repair.release('after the first rows')
  await env.finish()
})

test('once all is put back a replica is promoted that has what was lost, and nothing of the repair', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster({ replicas: 1 }))
  const { redis } = env
  // The head of the replica is beyond where the slot is read again.
  await env.unconfirmed(async () => {
    await env.published(50)
    await cutOff(redis.replicaOf('orders'))
    await env.published(50)
    await flush(env)
  })
  await until(() => env.healing.said('repaired') > 0, { message: 'a repair' })
  await redis.takeOver('orders')
  await env.finish()
  expect(env.repairs()).toBeGreaterThan(1)
})

test('in mid-repair slots of streams move to another master: the same repair goes through MOVED, TRYAGAIN and ASK', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => startRedisCluster())
  const { redis, repair, healing } = env
  const [from, to] = [redis.masterOf('orders'), redis.masterOf('users')]
  await holdInMidRepair(env)
  // A probe meets it at the latest.
  const isMoved = await answers(from, 'MOVED')
  await redis.beginMove('payments:2', to)
  await redis.moveKeys('payments:2', to)
  await redis.endMove('payments:2', to)
  await isMoved()
  // The stream here, its head there: commands that name both are told to try again.
  await redis.beginMove('orders', to)
  await redis.moveKeys('orders', to, [headKey('orders', healing.lineage)])
  const isTriedAgain = await answers(from, 'TRYAGAIN')
  await repair.release('after the first rows')
  await isTriedAgain()
  const isAsked = await answers(from, 'ASK')
  await redis.moveKeys('orders', to)
  await isAsked()
  await redis.endMove('orders', to)
  expect(await env.finish()).toHaveLength(1)
  expect(await env.lostStreams()).toEqual(TOGETHER)
  expect(env.repairs()).toBe(1)
})
