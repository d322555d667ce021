import { expect } from 'vitest'
import { needsProcess, startPostgres, startRedis, until } from '../../testkit/services/index.js'
import { test } from './fixture.js'
import { expectComplete, Load } from './load.js'

test('Postgres killed in mid-stream, twice: after each crash recovery it goes on, and nothing is lost or doubled', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const s = await scenario({ database })
  const relay = await s.relay()
  await relay.streaming()
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
  await expectComplete(s, 'orders')
  expect(await relay.metric('outrider_sessions_total')).toBe(3)
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
  expect(await database.query('select * from outrider.incident')).toEqual([])
})

test('a walsender that is terminated again and again: the relay resumes at once each time', async ({ scenario }) => {
  const s = await scenario()
  const relay = await s.relay()
  await relay.streaming()
  const load = new Load(s.database, 'orders')
  for (let fault = 1; fault <= 5; fault++) {
    await load.more(10)
    const { rowCount } = await s.postgres.query(
      'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active',
      [s.slot],
    )
    expect(rowCount).toBe(1)
    await until(async () => (await relay.metric('outrider_sessions_total')) === fault + 1, { timeout: 5_000 })
  }
  await load.more(10)
  await load.stop()
  await expectComplete(s, 'orders')
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
})

test('Postgres shuts down at once while Redis is frozen with events in flight, and what was in flight arrives later', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const redis = await startRedis()
  const database = await server.createDatabase()
  const s = await scenario({ database, redis })
  const relay = await s.relay()
  await relay.streaming()
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
  await expectComplete(s, 'orders')
})
