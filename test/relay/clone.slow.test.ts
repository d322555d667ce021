import { expect } from 'vitest'
import { until } from '../../testkit/services/index.js'
import { cloneTest, looksAgain } from './clone-env.js'
import { saved } from './redis-loss-env.js'
import { REPAIR } from './repair-env.js'

for (const saved of [true, false]) {
  cloneTest(
    `a clone that is older than the head in Redis${saved ? '' : ', of a stream that it has not saved yet,'} halts as foreign, writes nothing, and does not disturb the original`,
    async ({ env }) => {
      const { original, clone, openIncidents, publish, head } = env
      const relay = await env.streamingRelay()
      await publish(original, 'orders')
      await until(async () => (await env.ids('orders')).length === 1)
      if (saved) {
        const heads = 'select from outrider.head'
        await until(async () => (await env.postgres.query(heads)).rowCount === 1, { message: 'the head to be saved' })
      }
      const copy = await clone()
      // Further than what a copy writes to its WAL just by starting.
      await env.database.query('create table filler as select gen_random_uuid() from generate_series(1, 20000)')
      await publish(original, 'orders')
      await until(async () => (await env.ids('orders')).length === 2)
      const before = { ids: await env.ids('orders'), head: await head() }

      await publish(copy.server, 'orders')
      const other = await copy.relay()
      await other.is({ role: 'halted', reason: 'wal_beyond' })
      expect(await other.status()).toMatchObject({ code: 503, message: expect.stringContaining('outrider adopt') })
      expect(await openIncidents(copy.server)).toEqual([{ kind: 'foreign', reason: 'wal_beyond', stream: 'orders' }])
      await looksAgain(other)
      expect({ ids: await env.ids('orders'), head: await head() }).toEqual(before)

      const id = await publish(original, 'orders')
      await until(async () => (await env.ids('orders')).length === 3)
      expect(await env.ids('orders')).toEqual([...before.ids, id])
      expect(await relay.status()).toMatchObject({ code: 200, role: 'active', state: 'streaming' })
      expect(await openIncidents(original)).toEqual([])
    },
  )
}

cloneTest(
  'a clone that publishes while the original is idle: the original halts loudly, with nothing of its own skipped in silence',
  async ({ env }) => {
    const { original, clone, openIncidents, publish } = env
    const relay = await env.streamingRelay()
    const first = await publish(original, 'orders')
    await until(async () => (await env.ids('orders')).length === 1)
    const copy = await clone()
    const other = await copy.relay()
    await other.streaming()
    const cloned = await publish(copy.server, 'orders')
    await until(async () => (await env.ids('orders')).length === 2)

    // No event is needed to find it.
    await relay.is({ role: 'halted', reason: 'session_unknown' })
    expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringContaining('copy') })
    expect(await openIncidents(original)).toEqual([{ kind: 'foreign', reason: 'session_unknown', stream: 'orders' }])
    const own = await publish(original, 'orders')
    await looksAgain(relay)
    expect(await env.ids('orders')).toEqual([first, cloned])
    // It stays in the slot, for when somebody has decided.
    const rows = await env.database.query<{ data: Buffer }>(
      `select data from
     pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'outrider')`,
      [env.slot],
    )
    expect(rows.filter(({ data }) => data.includes(own))).toHaveLength(1)
    expect(await openIncidents(copy.server)).toEqual([])
  },
)

cloneTest(
  'a clone without a slot does not repair itself into the streams of a live relay, and publishes once that one has stopped',
  async ({ env }) => {
    const { original, clone, openIncidents, publish, head } = env
    const relay = await env.streamingRelay(REPAIR)
    const first = await publish(original, 'orders')
    await saved(env, 1, first)
    const copy = await clone()
    await copy.server.query('select pg_drop_replication_slot($1)', [env.slot])
    const cloned = await publish(copy.server, 'orders')
    const before = await head()

    const other = await copy.relay(REPAIR)
    await other.is({ role: 'active', state: 'blocked', reason: 'alive_elsewhere' })
    expect(await other.status()).toMatchObject({
      message: expect.stringContaining('another relay publishes'),
    })
    expect(await openIncidents(copy.server)).toEqual([{ kind: 'gap', reason: 'slot_missing', stream: null }])
    expect(await copy.server.query('select from pg_replication_slots')).toEqual([])
    expect([await env.ids('orders'), await head()]).toEqual([[first], before])
    expect(await relay.status()).toMatchObject({ code: 200, role: 'active', state: 'streaming' })
    expect(await openIncidents(original)).toEqual([])

    await relay.stop()
    await other.streaming()
    await until(async () => (await env.ids('orders')).length > 1)
    expect(await env.ids('orders')).toEqual([first, cloned])
  },
)
