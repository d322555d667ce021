import { expect } from 'vitest'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { expectComplete, Load } from './load.js'
import { relayTest as test } from './relay-env.js'

test('Postgres killed in mid-stream, twice: after each crash recovery it goes on, and nothing is lost or doubled', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  const relay = await env.streamingRelay()
  const load = new Load(database, 'orders')
  for (let crash = 1; crash <= 2; crash++) {
    await load.more(30)
    await server.kill()
    await relay.is({ role: 'starting' })
    expect(await relay.status()).toMatchObject({ code: 503, reason: expect.stringMatching(/^postgres_/) })
    await server.start()
    await relay.streaming()
  }
  await load.more(10)
  await load.stop()
  await expectComplete(env, 'orders')
  expect(await relay.metric('outrider_sessions_total')).toBe(3)
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
  expect(await database.query('select * from outrider.incident')).toEqual([])
})

test('a walsender that is terminated again and again: the relay resumes at once each time', async ({ env }) => {
  const relay = await env.streamingRelay()
  const load = new Load(env.database, 'orders')
  for (let fault = 1; fault <= 5; fault++) {
    await load.more(10)
    const { rowCount } = await env.postgres.query(
      'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active',
      [env.slot],
    )
    expect(rowCount).toBe(1)
    await until(async () => (await relay.metric('outrider_sessions_total')) === fault + 1)
  }
  await load.more(10)
  await load.stop()
  await expectComplete(env, 'orders')
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
})

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
  expect(performance.now() - began).toBeLessThan(5_000)

  await redis.thaw()
  await server.start()
  await relay.streaming()
  await expectComplete(env, 'orders')
})
