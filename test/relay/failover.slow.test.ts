import { expect } from 'vitest'
import { needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { Database, PostgresServer } from '../../testkit/services/postgres-server.js'
import { tail } from '../../testkit/services/process.js'
import { TcpProxy } from '../../testkit/services/proxy.js'
import { expectComplete, Load } from './load.js'
import { relayTest as test } from './relay-env.js'

test('failover to a standby with a synced slot: the new timeline is followed, replays are known, nothing is lost', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const primary = await startPostgres()
  onTestFinished(() => primary.remove())
  const [version] = await primary.query<{ num: number }>("select current_setting('server_version_num')::int as num")
  if (version!.num < 170_000) skip('needs Postgres 17 or later: failover slots')

  const { name } = await primary.createDatabase()
  await primary.query("select pg_create_physical_replication_slot('standby')")
  // What the standby has not got is not published.
  await primary.set({ synchronized_standby_slots: 'standby' })
  const standby = await startPostgres({
    standbyOf: primary,
    settings: { hot_standby_feedback: 'on', primary_slot_name: 'standby' },
  })
  onTestFinished(() => standby.remove())
  await standby.set({
    primary_conninfo: `host=127.0.0.1 port=${primary.port} user=postgres dbname=postgres`,
    sync_replication_slots: 'on',
    // Once it is the primary, nobody stands by.
    synchronized_standby_slots: '',
  })

  // What a service's name is elsewhere.
  let proxy = await startProxy(primary.port)
  onTestFinished(() => proxy.close())
  const database = new Database(new PostgresServer(proxy.url(primary.url())), name)
  const env = await createEnv({ database })
  const relay = await env.streamingRelay()
  const load = new Load(database, 'orders')
  // The standby can take the slot over once it has moved, and from where the standby has all that it needs.
  await until(
    async () => {
      await primary.query('select pg_log_standby_snapshot()')
      const synced = 'select from pg_replication_slots where slot_name = $1 and synced and not temporary'
      return (await standby.query(synced, [env.slot])).length === 1
    },
    { message: () => `the slot to be on the standby\n${tail(standby.log)}` },
  )
  await load.more(30)

  await primary.kill()
  await proxy.close()
  await standby.promote()
  proxy = new TcpProxy(standby.port, proxy.port)
  await proxy.accept()

  await until(async () => (await relay.metric('outrider_sessions_total')) === 2, {
    message: () => `a session on the new primary\n${relay.tail(10)}`,
  })
  await load.more(20)
  await load.stop()
  await expectComplete(env, 'orders')
  expect(await relay.metric('outrider_events_skipped_total')).toBeGreaterThan(0)
  expect(await database.query('select timeline from outrider.lineage')).toEqual([{ timeline: 2 }])
  const entries = await env.redis.xrange('orders', '-', '+')
  const timelines = entries.map(([, pairs]) => (pairs[pairs.indexOf('sequence') + 1] as string).slice(0, 8))
  expect([...new Set(timelines)]).toEqual(['00000001', '00000002'])
  expect(await database.query('select * from outrider.incident')).toEqual([])
})
