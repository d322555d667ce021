import { expect } from 'vitest'
import { setUp } from '../../src/postgres/setup/setup.js'
import { relayTest as test } from './relay-env.js'
import { REPAIR, repaired, someEvents } from './repair-env.js'

test('events that were copied from another cluster, and published, come back after FLUSHALL once setup has run again', async ({
  env,
}) => {
  const { database, postgres, slot } = env
  await env.streamingRelay(REPAIR)
  // As COPY does with a row of a cluster that is far ahead.
  await postgres.query(
    `insert into outrider.outbox (stream, type, txid)
     select 'orders', 'test.happened', (pg_current_xact_id()::text::bigint + 1000000 + n)::text::xid8 from generate_series(1, 3) as n`,
  )
  const ids = await someEvents(env)
  const all = await env.ids('orders')
  expect(all).toHaveLength(3 + ids.length)
  const client = await database.connect()
  const { renewed } = await setUp(client, {
    ...{ slot, publication: 'outrider', source: undefined, outboxTable: 'outrider.outbox', partitions: new Map() },
  })
  await client.end()
  await env.redis.flushall()
  await repaired(env)
  expect((await env.ids('orders')).sort()).toEqual([...all].sort())
  expect(renewed).toBe(3)
})
