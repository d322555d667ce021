import { expect, it, onTestFinished } from 'vitest'
import { closeRedis, connectRedis } from '../../src/redis/client/connect.js'
import { readFreeMemory } from '../../src/relay/repair/guards.js'
import { needsProcess, startRedisCluster } from '../../testkit/services/index.js'

const FREE = 10_000_000

async function* each<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

it('memory in a cluster is that of the primaries that have the streams, each for its share of them', async (context) => {
  needsProcess(context, ['redis'])
  const cluster = await startRedisCluster()
  onTestFinished(() => cluster.remove())
  const [orders, users, payments] = ['orders', 'users', 'payments:0'].map((key) => cluster.masterOf(key))
  expect(new Set([orders, users, payments]).size).toBe(3)
  const client = await connectRedis({ url: cluster.url, connectTimeout: 5_000 }, 'outrider-test')
  onTestFinished(() => closeRedis(client))
  const used = async () => Number(/^used_memory:(\d+)/m.exec(String(await users?.command('INFO', 'memory')))?.[1])
  await users?.config('maxmemory', String((await used()) + FREE))
  await payments?.config('maxmemory', '1')
  const free = async (...streams: string[]) => (await readFreeMemory(client, each(streams))) ?? Number.POSITIVE_INFINITY

  expect(await free('orders')).toBe(Number.POSITIVE_INFINITY)
  const alone = await free('users')
  expect(alone).toBeGreaterThan(FREE / 2)
  expect(alone).toBeLessThan(FREE * 1.5)
  // Three of four streams are where there is no limit.
  expect(await free('users', 'orders', 'payments:2', '{orders}:other')).toBeGreaterThan(FREE * 3)
  expect(await free('payments:0')).toBe(0)
})
