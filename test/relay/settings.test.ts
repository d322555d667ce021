import pg from 'pg'
import { expect } from 'vitest'
import { type SetupOptions, setUp } from '../../src/postgres/setup.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { TOO_LOW, TOO_LOW_SAYS } from '../support/wal-level.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

const setUpAgain = (env: RelayEnv, more: Pick<SetupOptions, 'grants' | 'lockTimeout'> = {}) =>
  setUp(env.postgres, {
    ...more,
    slot: env.slot,
    publication: 'outrider',
    source: undefined,
    outboxTable: 'outrider.outbox',
    partitions: new Map(),
  })

const role = (env: RelayEnv): string => pg.escapeIdentifier(`relay_${env.database.name}`)

/** Not ready, alive, and its message says what to look at. */
async function expectWaiting(relay: RelayProcess, reason: string, says: RegExp): Promise<void> {
  await relay.is({ reason })
  expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringMatching(says) })
  expect((await fetch(`http://127.0.0.1:${relay.httpPort}/livez`)).status).toBe(200)
}

async function expectFlow(env: RelayEnv): Promise<void> {
  const id = await env.insert('orders')
  await until(async () => (await env.ids('orders')).includes(id))
}

test.concurrent('synchronous_standby_names that match everybody, and read-only by default: nothing hangs, nothing is lost', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const env = await createEnv({ database: await server.createDatabase() })
  await server.set({ synchronous_standby_names: '*', default_transaction_read_only: 'on' })
  const relay = await env.streamingRelay()
  // The first commit of a session waits for a standby, too, and there is none before the relay streams.
  expect(relay.logs.map(({ msg }) => msg)).toContain(
    'session not confirmed by a synchronous standby within 5 s, continuing',
  )
  await env.postgres.query('set default_transaction_read_only = off; set synchronous_commit = on')
  expect((await server.query('show default_transaction_read_only'))[0]).toEqual({ default_transaction_read_only: 'on' })

  // The relay itself is the standby that this commit waits for: it must publish and confirm before anybody else sees it.
  const inserting = env.insert('orders')
  await until(async () => (await env.ids('orders')).length === 1)
  const waiting = "select from pg_stat_activity where wait_event = 'SyncRep'"
  expect(await server.query(waiting)).toHaveLength(1)
  const id = await inserting
  expect(await env.ids('orders')).toEqual([id])
  expect(await server.query('select sync_state from pg_stat_replication')).toEqual([{ sync_state: 'sync' }])
  const { rows } = await env.postgres.query('select count(*)::int as heads from outrider.head')
  expect(rows).toEqual([{ heads: 1 }])
})

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

test.concurrent('without the attribute REPLICATION the relay says so, stays alive, and goes on once it has it', async ({
  env,
}) => {
  await env.postgres.query(`alter role ${role(env)} noreplication`)
  const relay = await env.relay()
  await expectWaiting(relay, 'postgres_privilege', /replication/i)
  await env.postgres.query(`alter role ${role(env)} replication`)
  await relay.streaming()
  await expectFlow(env)
})

test.concurrent('without the role outrider_relay it waits for the grant, says so, and goes on once it has it', async ({
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

test.concurrent('started before a setup that waits long for the slot, the relay waits for it and is never halted', async ({
  createEnv,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Its own: an open transaction holds up every slot of the server.
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const env = await createEnv({ database })
  await env.postgres.query('drop schema outrider cascade')
  await env.postgres.query('drop publication outrider')
  await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
  await env.postgres.query(`revoke outrider_relay from ${role(env)}`)
  const relay = await env.relay()
  await expectWaiting(relay, 'setup_missing', /no schema outrider/)

  const writer = await database.connect()
  onTestFinished(() => writer.end())
  await writer.query('begin; select pg_current_xact_id()')
  const made = setUpAgain(env, { grants: { outrider_relay: [`relay_${database.name}`] }, lockTimeout: 60_000 })
  await relay.is({ role: 'starting', state: 'waiting', reason: 'setup_interrupted' })
  await writer.query('rollback')
  expect((await made).grants).toEqual([{ role: 'outrider_relay', to: `relay_${database.name}`, state: 'granted' }])
  await relay.streaming()
  await expectFlow(env)
  expect(relay.logs.filter(({ role }) => role === 'halted')).toEqual([])
})

test.concurrent('started before setup, or after an interrupted one, the relay says so, stays alive, and goes on after it', async ({
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
  await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
  await env.postgres.query('update outrider.lineage set confirmed_lsn = null')
  const next = await env.relay()
  await expectWaiting(next, 'setup_interrupted', /Run `outrider setup`/)
  await setUpAgain(env)
  await next.streaming()
  await expectFlow(env)
})

test.concurrent('wal_level too low: the relay says what is missing, stays alive, and goes on after a restart and setup', async ({
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

test.concurrent('a setting that has no effect yet is a warning in the log at the start', async ({ env }) => {
  const relay = await env.relay({ OUTRIDER_ON_GAP: 'repair' })
  const said = 'setting has no effect in this version'
  await until(async () => relay.logs.some(({ msg }) => msg === said))
  expect(relay.logs.filter(({ msg }) => msg === said)).toMatchObject([{ level: 'warn', setting: 'OUTRIDER_ON_GAP' }])
})
