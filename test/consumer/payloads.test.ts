import { expect, onTestFinished } from 'vitest'
import { type Delivery, deliveryOf } from '../../src/consumer/delivery/delivery.js'
import { MAX_HELD_BYTES } from '../../src/consumer/delivery/limits.js'
import { Payloads } from '../../src/consumer/delivery/payloads.js'
import { HandlerRegistry } from '../../src/consumer/handler-registry.js'
import { ReconnectingClient } from '../../src/consumer/redis/reconnecting-client.js'
import { connectRedis } from '../../src/redis/client/connect.js'
import type { StreamEntry } from '../../src/redis/streams/group-replies.js'
import { entryOf } from '../../testkit/entry.js'
import type { FreshRedis } from '../../testkit/services/index.js'
import { type GroupEnv, groupTest as test } from './group-env.js'
import { GROUP } from './happened.js'

const KIB = 1024
const MIB = KIB * KIB
const routes = new HandlerRegistry(
  { concurrency: 10, maxAttempts: 10, retryFor: 1_000, backoff: () => 0 },
  new Set<string>(),
)

async function payloadsOf(server: FreshRedis): Promise<Payloads> {
  const log = { debug() {}, info() {}, warn() {}, error() {} }
  const link = new ReconnectingClient(() => connectRedis({ url: server.url, connectTimeout: 5_000 }, 'one'), log)
  onTestFinished(() => link.close())
  await link.open()
  return new Payloads(link, () => {})
}

/** Entries that were given to the first consumer. */
async function given({ redis, key, one }: GroupEnv, count: number, fields: () => string[]): Promise<Delivery[]> {
  for (let n = 0; n < count; n++) await redis.xadd(key, '*', ...fields())
  const { fresh } = await one.readNew(redis, count, Number.MAX_SAFE_INTEGER)
  return fresh.map((entry) => deliveryOf(one, entry, routes, false))
}

/** The same entry as it comes from another consumer: without its payload and its headers. */
const claimed = (group: GroupEnv['one'], { id }: StreamEntry, size: number, fields: string[]): Delivery =>
  deliveryOf(group, { id, fields, size }, routes, false, { deliveryCount: 1, attempts: '' })

const hasPayload = ({ fields }: Delivery): boolean => fields !== undefined

const bytesOf = (deliveries: readonly Delivery[]): number =>
  deliveries.reduce((sum, { baseSize, fields = [] }) => sum + baseSize + fields.join('').length, 0)

test('entries without payloads take up memory as well, until they are gone', async ({ env, server }) => {
  const payloads = await payloadsOf(server)
  const fields = entryOf(undefined, { subject: 's'.repeat(200) })
  const all = Array.from({ length: 1_000 }, (_, n) => claimed(env.one, { id: `1-${n}`, fields }, 5 * MIB, fields))
  for (const delivery of all) payloads.add(delivery)
  expect(payloads.room).toBeLessThan(MAX_HELD_BYTES - all.length * (KIB + 200))
  for (const delivery of all) {
    payloads.drop(delivery)
    delivery.state = 'gone'
    payloads.drop(delivery)
  }
  expect(payloads.room).toBe(MAX_HELD_BYTES)
})

test('an entry whose payload is not held keeps no headers, and has them again with its payload', async ({
  env,
  server,
}) => {
  const payloads = await payloadsOf(server)
  const more = { tenant: 't'.repeat(500), correlationid: 'c' }
  const all = await given(env, 18, () => entryOf({ pad: 'x'.repeat(MIB) }, { more }))
  for (const delivery of all) payloads.add(delivery)
  const last = all.at(-1) as Delivery
  expect(hasPayload(last)).toBe(false)
  expect(last.event).toMatchObject({ headers: {}, correlationId: undefined, type: 'thing.happened' })
  last.state = 'running'
  expect(await payloads.load([last])).toEqual([])
  expect(last.event).toMatchObject({ headers: { tenant: more.tenant }, correlationId: 'c' })
})

test('payloads that are loaded for calls take the place of those that are queued, the last first', async ({
  env,
  server,
}) => {
  const { one, redis, key } = env
  const payloads = await payloadsOf(server)
  const all = await given(env, 24, () => entryOf({ pad: 'x'.repeat(MIB) }))
  const [queued, left] = [all.slice(0, 16), all.slice(16)]
  for (const delivery of queued) payloads.add(delivery)
  expect(queued.filter(hasPayload)).toHaveLength(15)
  const size = MIB + KIB
  const running = left.map(({ id }) => claimed(one, { id, fields: [] }, size, entryOf(undefined)))
  for (const delivery of running) payloads.add(delivery)
  for (const delivery of running) delivery.state = 'running'
  expect(await payloads.load(running)).toEqual([])
  expect(running.every(hasPayload)).toBe(true)
  expect(bytesOf([...queued, ...running])).toBeLessThan(MAX_HELD_BYTES)
  const kept = queued.filter(hasPayload).length
  expect(kept).toBeGreaterThan(4)
  expect(queued.slice(0, kept).every(hasPayload)).toBe(true)
  expect((await redis.xpending(key, GROUP))[0]).toBe(24)
})
