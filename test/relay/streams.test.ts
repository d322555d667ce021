import { expect } from 'vitest'
import { needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { expectComplete, Load } from './load.js'
import { relayTest as test } from './relay-env.js'

test.concurrent('two databases that write to one stream: each is complete and in its own order', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const both = [await createEnv({ redis }), await createEnv({ redis })]
  const loads = both.map((env) => new Load(env.database, 'orders'))
  for (const env of both) await (await env.relay()).streaming()
  for (const load of loads) await load.more(50)
  for (const load of loads) await load.stop()

  const expected = await Promise.all(
    both.map(async ({ postgres }) => {
      const { rows } = await postgres.query('select id from outrider.outbox order by seq')
      return rows.map(({ id }) => id as string)
    }),
  )
  const { redis: client } = both[0]!
  const total = expected.flat().length
  await until(async () => (await client.xlen('orders')) >= total, { message: `${total} events` })
  const found = await both[0]!.ids('orders')
  for (const ids of expected) {
    const own = new Set(ids)
    expect(found.filter((id) => own.has(id))).toEqual(ids)
  }
  expect(found.length).toBe(total)
  // They met: neither had the stream to itself.
  const first = new Set(expected[0])
  const turns = found.filter((id, at) => at > 0 && first.has(id) !== first.has(found[at - 1] as string))
  expect(turns.length).toBeGreaterThan(2)
})

test.concurrent('a cluster of one: events flow, and what is lost is a gap there, too', async ({ createEnv, skip }) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis({ settings: { 'cluster-enabled': 'yes', 'cluster-announce-ip': '127.0.0.1' } })
  const env = await createEnv({ redis, partitions: { orders: 4 } })
  await env.redis.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
  await until(async () => /cluster_state:ok/.test(String(await env.redis.call('CLUSTER', 'INFO'))))
  const relay = await env.relay({ OUTRIDER_REDIS_URL: redis.url.replace('redis:', 'redis+cluster:') })
  const load = new Load(env.database, 'payments')
  await relay.streaming()
  await load.more(30)
  // Nodes come and go: the connections are cut, and made again.
  await env.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await load.more(30)
  await load.stop()
  await expectComplete(env, 'payments')
  for (let n = 0; n < 20; n++) await env.insert('orders', { n }, `subject-${n}`)
  const partitions = [0, 1, 2, 3].map((partition) => `orders:${partition}`)
  const lengths = () => Promise.all(partitions.map((key) => env.redis.xlen(key)))
  await until(async () => (await lengths()).reduce((sum, length) => sum + length) === 20)
  for (const key of partitions) await until(() => env.isConfirmed(key), { message: 'the slot to move on' })
  expect(await relay.metric('outrider_epochs_total')).toBeGreaterThanOrEqual(2)
  const { rows } = await until(async () => {
    const saved = await env.postgres.query("select from outrider.head where stream_key = 'payments'")
    return saved.rowCount === 1 && saved
  })
  expect(rows.length).toBe(1)
  await env.redis.del('payments')
  await relay.is({ role: 'halted', reason: 'stream_behind' })
})
