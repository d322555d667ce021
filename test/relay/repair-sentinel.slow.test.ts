import { expect } from 'vitest'
import { cutOff, needsProcess, until } from '../../testkit/services/index.js'
import { KEYS } from '../healing/healing-env.js'
import { topologyTest as test } from './repair-topology-env.js'
import { SentinelPair } from './sentinel-pair.js'

test('a primary dies, and a sentinel promotes a replica without the last events: they are put back', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => SentinelPair.start())
  const { primary, replica } = env.redis
  await cutOff(replica)
  await env.confirmed(100)
  await primary.kill()
  await env.redis.failOver()
  // It follows the new one.
  await primary.start()
  expect(await env.finish()).toMatchObject([{ reason: 'stream_behind' }])
})

test('in mid-repair a sentinel promotes a replica that has nothing of what was put back', async ({ start, skip }) => {
  needsProcess({ skip })
  const env = await start(() => SentinelPair.start())
  const { repair, redis } = env
  await repair.hold('before heads are moved', 'after the first rows')
  await redis.primary.command('FLUSHALL')
  await repair.reached('before heads are moved')
  await cutOff(redis.replica)
  await repair.release('before heads are moved')
  await repair.reached('after the first rows')
  await until(async () => (await env.entries(KEYS)) > 0, { message: 'the first events to be put back' })
  await redis.failOver()
  await repair.release('after the first rows')
  await env.finish()
  expect(env.repairs()).toBeGreaterThan(1)
})

test('in mid-repair a primary dies, and a sentinel promotes a replica that has a part of what was put back', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => SentinelPair.start())
  const { repair, redis } = env
  await repair.hold('after the first rows')
  await redis.primary.command('FLUSHALL')
  await repair.reached('after the first rows')
  await until(async () => (await env.entries(KEYS)) > 0, { message: 'the first events to be put back' })
  await cutOff(redis.replica)
  const entries = await env.entries(KEYS)
  await repair.release('after the first rows')
  await until(async () => (await env.entries(KEYS)) > entries, { message: 'more events to be put back' })
  await redis.primary.kill()
  await redis.failOver()
  await redis.primary.start()
  await env.finish()
})

test('once all is put back a sentinel promotes a replica that has what was lost, and nothing of the repair', async ({
  start,
  skip,
}) => {
  needsProcess({ skip })
  const env = await start(() => SentinelPair.start())
  const { redis, healing } = env
  await cutOff(redis.replica)
  await redis.primary.command('FLUSHALL')
  await until(() => healing.said('repaired') > 0, { message: 'a repair' })
  await redis.failOver()
  await env.finish()
  expect(env.repairs()).toBeGreaterThan(1)
})
