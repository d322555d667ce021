import fc from 'fast-check'
import type { Redis as Client } from 'ioredis'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { loadAppend } from '../../src/redis/streams/append.js'
import { needsProcess, type Redis, startRedis } from '../../testkit/services/index.js'
import { KINDS, Schedule } from './publish-schedule.js'
import { LINEAGES, PublishedState } from './published-state.js'

const SCHEDULES = 50
const STEPS = 80

let redis: Redis | undefined
let admin: Client
let client: Client

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_REDIS_URL) return
  redis = await startRedis()
  admin = redis.client()
  await admin.call('ACL', 'SETUSER', 'relay', 'on', '>secret', '~*', '+@all')
  client = redis.client({ username: 'relay', password: 'secret' })
  await loadAppend(client)
})

afterAll(async () => {
  admin?.disconnect()
  client?.disconnect()
  await redis?.remove()
})

const step = fc.record({
  kind: fc.constantFrom(...KINDS),
  lineage: fc.constantFrom(...LINEAGES),
  a: fc.nat(100),
  b: fc.nat(100),
})

it('loses nothing in silence, doubles nothing and reorders nothing, whatever happens', async (context) => {
  needsProcess(context, ['redis'])
  const seed = Number(process.env.OUTRIDER_TEST_SEED ?? Date.now() % 2 ** 31)
  console.info(`seed ${seed}: OUTRIDER_TEST_SEED=${seed} runs the same schedules`)
  let steps = 0
  const schedules = fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: STEPS, size: 'max' }), async (taken) => {
    await admin.flushall()
    await admin.call('ACL', 'SETUSER', 'relay', '+xadd')
    const schedule = new Schedule(new PublishedState(admin), client)
    for (const each of taken) await schedule.take(each)
    await schedule.settle()
    steps += taken.length
  })
  await fc.assert(schedules, {
    seed,
    numRuns: SCHEDULES,
    interruptAfterTimeLimit: 120_000,
    markInterruptAsFailure: false,
  })
  expect(steps).toBeGreaterThan((SCHEDULES * STEPS) / 3)
})
