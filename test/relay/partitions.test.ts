import { expect } from 'vitest'
import { fieldsOf } from '../../testkit/entry.js'
import { until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'

test('a partitioned stream: each subject in one partition, in order, and its number of partitions in Redis', async ({
  createEnv,
}) => {
  const env = await createEnv({ partitions: { orders: 4 } })
  const relay = await env.streamingRelay()
  for (let round = 1; round <= 5; round++) {
    await env.postgres.query(
      `insert into outrider.outbox (stream, type, subject, data)
       select 'orders', 'test.happened', 'subject-' || n, to_json($1::int) from generate_series(1, 40) n`,
      [round],
    )
  }
  await env.insert('orders', {})
  await env.insert('users', {}, 'subject-1')
  const keys = ['orders:0', 'orders:1', 'orders:2', 'orders:3']
  const lengths = () => Promise.all(keys.map((key) => env.redis.xlen(key)))
  await until(async () => (await lengths()).reduce((sum, length) => sum + length, 0) >= 201)
  await until(async () => (await env.ids('users')).length === 1)
  for (const length of await lengths()) expect(length).toBeGreaterThan(0)

  const seen = new Map<string, { key: string; rounds: string[] }>()
  for (const key of keys) {
    for (const [, pairs] of await env.redis.xrange(key, '-', '+')) {
      const { subject, data = '' } = fieldsOf(pairs)
      if (subject === undefined) continue
      const known = seen.get(subject) ?? { key, rounds: [] }
      expect(known.key).toBe(key)
      known.rounds.push(data)
      seen.set(subject, known)
    }
  }
  expect(seen.size).toBe(40)
  for (const { rounds } of seen.values()) expect(rounds).toEqual(['1', '2', '3', '4', '5'])
  expect(await env.redis.exists('orders')).toBe(0)
  expect(await env.redis.get('outrider:{orders}:partitions')).toBe('4')
  expect(await env.redis.get('outrider:{users}:partitions')).toBeNull()

  // A restart, a new Redis connection, a wrong idea in the configuration: the count stays as it was fixed.
  await relay.stop()
  await env.streamingRelay()
  const { rows } = await env.postgres.query(
    "select outrider.publish('orders', 'test.happened', '6', 'subject-1') as id",
  )
  const { key } = seen.get('subject-1')!
  await until(async () => (await env.ids(key)).at(-1) === rows[0].id)
})

test('the number of partitions comes back where Redis has lost it alone', async ({ createEnv }) => {
  const env = await createEnv({ partitions: { orders: 4 } })
  await env.streamingRelay()
  await env.redis.del('outrider:{orders}:partitions')
  await until(async () => (await env.redis.get('outrider:{orders}:partitions')) === '4', { message: 'the number' })
})
