import { expect } from 'vitest'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { expectComplete, Load } from './load.js'
import { relayTest as test } from './relay-env.js'

test('Postgres shuts down at once while Redis is frozen with events in flight, and what was in flight arrives later', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const redis = await startRedis()
  const database = await server.createDatabase()
  const env = await createEnv({ database, redis })
  const relay = await env.streamingRelay()
  const load = new Load(database, 'orders', 100)
  await load.more(10)
  await redis.freeze()
  await load.more(30)
  await load.stop()
  await until(async () => ((await relay.metric('outrider_inflight_events')) ?? 0) > 0, { message: 'events in flight' })
  const [slot] = await database.query(
    'select active, confirmed_flush_lsn < pg_current_wal_lsn() as behind from pg_replication_slots',
  )
  expect(slot).toEqual({ active: true, behind: true })

  const began = performance.now()
  await server.stop('fast')
  // A walsender that waited for the client would hold it up for as long as wal_sender_timeout, 60 s.
  expect(performance.now() - began).toBeLessThan(30_000)

  await redis.thaw()
  await server.start()
  await relay.streaming()
  await expectComplete(env, 'orders')
})
