import { expect } from 'vitest'
import { setUp } from '../../src/postgres/setup/setup.js'
import { needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { TOO_LOW, TOO_LOW_SAYS } from '../support/wal-level.js'
import { dropSlot } from './gap-slot-env.js'
import { relayTest as test } from './relay-env.js'
import { expectFlow, expectWaiting, role, setUpAgain } from './settings-env.js'

test.concurrent('time-outs of the role for transactions and idle sessions end neither a large transaction nor a quiet relay', async ({
  createEnv,
  onTestFinished,
}) => {
  const env = await createEnv()
  const { rows } = await env.postgres.query("select from pg_settings where name = 'transaction_timeout'")
  if (rows.length > 0) await env.postgres.query(`alter role ${role(env)} set transaction_timeout = '700ms'`)
  // Shorter than the pauses between two looks at the slot.
  await env.postgres.query(`alter role ${role(env)} set idle_session_timeout = '700ms'`)
  const url = env.variables.OUTRIDER_REDIS_URL as string
  const proxy = await startProxy(Number(new URL(url).port))
  onTestFinished(() => proxy.close())
  const relay = await env.relay({ OUTRIDER_REDIS_URL: proxy.url(url) })
  await relay.streaming()
  // More than the relay and the sockets hold: the walsender waits in the middle of its transaction.
  proxy.pause()
  await env.postgres.query(
    `insert into outrider.outbox (stream, type, data)
     select 'orders', 'test.happened', to_json(repeat('x', 500000)) from generate_series(1, 60)`,
  )
  const waits = "select from pg_stat_activity where pid = $1 and wait_event = 'WalSenderWriteData'"
  const walsender = await env.walsender()
  let since = performance.now()
  await until(
    async () => {
      if ((await env.postgres.query(waits, [walsender])).rowCount === 0) since = performance.now()
      return performance.now() - since > 1_500
    },
    { message: () => `the walsender to wait for the relay\n${relay.tail()}` },
  )
  proxy.resume()
  await until(async () => (await env.ids('orders')).length === 60)
  expect(await env.walsender()).toBe(walsender)
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
})

test.concurrent('without the attribute REPLICATION the relay says so, stays alive, and continues once it has it', async ({
  env,
}) => {
  await env.postgres.query(`alter role ${role(env)} noreplication`)
  const relay = await env.relay()
  await expectWaiting(relay, 'postgres_privilege', /replication/i)
  await env.postgres.query(`alter role ${role(env)} replication`)
  await relay.streaming()
  await expectFlow(env)
})

test.concurrent('without the role outrider_relay it waits for the grant, says so, and continues once it has it', async ({
  env,
}) => {
  await env.postgres.query(`revoke outrider_relay from ${role(env)}`)
  const relay = await env.relay()
  const says = new RegExp(`permission denied.*Run \`outrider setup --grant-relay relay_${env.database.name}\``)
  await expectWaiting(relay, 'setup_privilege', says)
  await relay.is({ role: 'starting', state: 'waiting' })
  await env.postgres.query(`grant outrider_relay to ${role(env)}`)
  await relay.streaming()
  await expectFlow(env)
  expect(relay.logs.filter(({ role }) => role === 'halted')).toEqual([])
})

test.concurrent('started before setup, or after an interrupted one, the relay says so, stays alive, and continues after it', async ({
  env,
}) => {
  await env.postgres.query('drop schema outrider cascade')
  await env.postgres.query('drop publication outrider')
  await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
  const relay = await env.relay()
  await expectWaiting(relay, 'setup_missing', /outrider/)
  await setUpAgain(env)
  await relay.streaming()
  await expectFlow(env)
  await relay.stop()

  // The lineage is there, its slot is not yet.
  await dropSlot(env)
  await env.postgres.query('update outrider.lineage set confirmed_lsn = null')
  const next = await env.relay()
  await expectWaiting(next, 'setup_interrupted', /Run `outrider setup`/)
  await setUpAgain(env)
  await next.streaming()
  await expectFlow(env)
})

test.concurrent('wal_level too low: the relay says what is missing, stays alive, and continues after a restart and setup', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
  await env.postgres.query('update outrider.lineage set confirmed_lsn = null')
  await env.postgres.end()
  await server.stop()
  await server.start(TOO_LOW)
  const relay = await env.relay()
  await expectWaiting(relay, ...TOO_LOW_SAYS)
  const client = await database.connect()
  onTestFinished(() => client.end().catch(() => {}))
  const options = { slot: env.slot, publication: 'outrider', source: undefined, outboxTable: 'outrider.outbox' }
  await expect(setUp(client, { ...options, partitions: new Map() })).rejects.toThrow('wal_level')
  await server.stop()
  await server.start({ wal_level: 'logical', max_wal_senders: '40' })
  const after = await database.connect()
  onTestFinished(() => after.end().catch(() => {}))
  await setUp(after, { ...options, partitions: new Map() })
  await relay.streaming()
  const { rows } = await after.query("select outrider.publish('orders', 'test.happened', '{}') as id")
  await until(async () => (await env.ids('orders')).includes(rows[0].id))
})

test.concurrent('transactions that are serializable, read-only and deferrable by default do not keep a relay from leading', async ({
  createEnv,
}) => {
  const env = await createEnv()
  const { rows } = await env.postgres.query('select current_database() as name')
  for (const setting of ["isolation = 'serializable'", 'deferrable = on', 'read_only = on']) {
    await env.postgres.query(`alter database "${rows[0].name}" set default_transaction_${setting}`)
  }
  await env.postgres.query('begin isolation level serializable read write')
  const id = await env.insert('orders')
  const relay = await env.relay()
  await relay.is({ role: 'active' })
  await env.postgres.query('commit')
  await relay.streaming()
  await until(async () => (await env.ids('orders')).includes(id), { message: 'the event' })
})
