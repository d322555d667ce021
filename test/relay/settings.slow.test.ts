import { expect } from 'vitest'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { relayTest as test } from './relay-env.js'
import { expectFlow, expectWaiting, role, setUpAgain } from './settings-env.js'

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
  const unconfirmed = 'session not confirmed by a synchronous standby within 5 s, continuing'
  await relay.logged(({ msg }) => msg === unconfirmed)
  await env.postgres.query('set default_transaction_read_only = off; set synchronous_commit = on')
  expect((await server.query('show default_transaction_read_only'))[0]).toEqual({ default_transaction_read_only: 'on' })

  // The relay itself is the standby that this commit waits for: it must publish and confirm before anybody else sees it.
  const inserting = env.insert('orders')
  await until(async () => (await env.ids('orders')).length === 1)
  const waiting = "select from pg_stat_activity where wait_event = 'SyncRep'"
  await until(async () => (await server.query(waiting)).length === 1, { message: 'the commit to wait' })
  const id = await inserting
  expect(await env.ids('orders')).toEqual([id])
  expect(await server.query('select sync_state from pg_stat_replication')).toEqual([{ sync_state: 'sync' }])
  const { rows } = await env.postgres.query('select count(*)::int as heads from outrider.head')
  expect(rows).toEqual([{ heads: 1 }])
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
  const made = setUpAgain(env, { grants: { outrider_relay: [`relay_${database.name}`] } })
  await relay.is({ role: 'starting', state: 'waiting', reason: 'setup_interrupted' })
  await writer.query('rollback')
  expect((await made).grants).toEqual([{ role: 'outrider_relay', to: `relay_${database.name}`, state: 'granted' }])
  await relay.streaming()
  await expectFlow(env)
  expect(relay.logs.filter(({ role }) => role === 'halted')).toEqual([])
})
