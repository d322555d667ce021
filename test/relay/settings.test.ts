import pg from 'pg'
import { expect } from 'vitest'
import { type SetupOptions, setUp } from '../../src/postgres/setup.js'
import type { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, startPostgres, until } from '../../testkit/services/index.js'
import { test } from './fixture.js'
import type { Scenario } from './scenario.js'

const setUpAgain = (s: Scenario, more: Pick<SetupOptions, 'grants' | 'lockTimeout'> = {}) =>
  setUp(s.postgres, {
    ...more,
    slot: s.slot,
    publication: 'outrider',
    source: undefined,
    outboxTable: 'outrider.outbox',
    partitions: new Map(),
  })

const role = (s: Scenario): string => pg.escapeIdentifier(`relay_${s.database.name}`)

/** Not ready, alive, and its message says what to look at. */
async function expectWaiting(relay: RelayProcess, reason: string, says: RegExp): Promise<void> {
  await relay.is({ reason })
  expect(await relay.status()).toMatchObject({ code: 503, message: expect.stringMatching(says) })
  expect((await fetch(`http://127.0.0.1:${relay.httpPort}/livez`)).status).toBe(200)
}

async function expectFlow(s: Scenario): Promise<void> {
  const id = await s.insert('orders')
  await until(async () => (await s.ids('orders')).includes(id))
}

test.concurrent('synchronous_standby_names that match everybody, and read-only by default: nothing hangs, nothing is lost', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const s = await scenario({ database: await server.createDatabase() })
  await server.set({ synchronous_standby_names: '*', default_transaction_read_only: 'on' })
  const relay = await s.relay()
  await relay.streaming()
  await s.postgres.query('set default_transaction_read_only = off; set synchronous_commit = on')
  expect((await server.query('show default_transaction_read_only'))[0]).toEqual({ default_transaction_read_only: 'on' })

  // The relay itself is the standby that this commit waits for: it must publish and confirm before anybody else sees it.
  const inserting = s.insert('orders')
  await until(async () => (await s.ids('orders')).length === 1)
  const waiting = "select from pg_stat_activity where wait_event = 'SyncRep'"
  expect(await server.query(waiting)).toHaveLength(1)
  const id = await inserting
  expect(await s.ids('orders')).toEqual([id])
  expect(await server.query('select sync_state from pg_stat_replication')).toEqual([{ sync_state: 'sync' }])
  const { rows } = await s.postgres.query('select count(*)::int as heads from outrider.head')
  expect(rows).toEqual([{ heads: 1 }])
})

test.concurrent('without the attribute REPLICATION the relay says so, stays alive, and goes on once it has it', async ({
  scenario,
}) => {
  const s = await scenario()
  await s.postgres.query(`alter role ${role(s)} noreplication`)
  const relay = await s.relay()
  await expectWaiting(relay, 'postgres_privilege', /replication/i)
  await s.postgres.query(`alter role ${role(s)} replication`)
  await relay.streaming()
  await expectFlow(s)
})

test.concurrent('without the role outrider_relay it waits for the grant, says so, and goes on once it has it', async ({
  scenario,
}) => {
  const s = await scenario()
  await s.postgres.query(`revoke outrider_relay from ${role(s)}`)
  const relay = await s.relay()
  const says = new RegExp(`permission denied.*Run \`outrider setup --grant-relay relay_${s.database.name}\``)
  await expectWaiting(relay, 'setup_privilege', says)
  await relay.is({ role: 'starting', state: 'waiting' })
  await s.postgres.query(`grant outrider_relay to ${role(s)}`)
  await relay.streaming()
  await expectFlow(s)
  expect(relay.logs.filter(({ role }) => role === 'halted')).toEqual([])
})

test.concurrent('started before a setup that waits long for the slot, the relay waits for it and is never halted', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  // Its own: an open transaction holds up every slot of the server.
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const s = await scenario({ database })
  await s.postgres.query('drop schema outrider cascade')
  await s.postgres.query('drop publication outrider')
  await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
  await s.postgres.query(`revoke outrider_relay from ${role(s)}`)
  const relay = await s.relay()
  await expectWaiting(relay, 'setup_missing', /no schema outrider/)

  const writer = await database.connect()
  onTestFinished(() => writer.end())
  await writer.query('begin; select pg_current_xact_id()')
  const made = setUpAgain(s, { grants: { outrider_relay: [`relay_${database.name}`] }, lockTimeout: 60_000 })
  await relay.is({ role: 'starting', state: 'waiting', reason: 'setup_interrupted' })
  await writer.query('rollback')
  expect((await made).grants).toEqual([{ role: 'outrider_relay', to: `relay_${database.name}`, state: 'granted' }])
  await relay.streaming()
  await expectFlow(s)
  expect(relay.logs.filter(({ role }) => role === 'halted')).toEqual([])
})

test.concurrent('started before setup, or after an interrupted one, the relay says so, stays alive, and goes on after it', async ({
  scenario,
}) => {
  const s = await scenario()
  await s.postgres.query('drop schema outrider cascade')
  await s.postgres.query('drop publication outrider')
  await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
  const relay = await s.relay()
  await expectWaiting(relay, 'setup_missing', /outrider/)
  await setUpAgain(s)
  await relay.streaming()
  await expectFlow(s)
  await relay.stop()

  // The lineage is there, its slot is not yet.
  await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
  await s.postgres.query('update outrider.lineage set confirmed_lsn = null')
  const next = await s.relay()
  await expectWaiting(next, 'setup_interrupted', /Run `outrider setup`/)
  await setUpAgain(s)
  await next.streaming()
  await expectFlow(s)
})

test.concurrent('wal_level = replica: the relay says what is missing, stays alive, and goes on after a restart and setup', async ({
  scenario,
  skip,
  onTestFinished,
}) => {
  needsProcess({ skip })
  const server = await startPostgres()
  onTestFinished(() => server.remove())
  const database = await server.createDatabase()
  const s = await scenario({ database })
  await s.postgres.query('select pg_drop_replication_slot($1)', [s.slot])
  await s.postgres.query('update outrider.lineage set confirmed_lsn = null')
  await s.postgres.end()
  await server.stop()
  await server.start({ wal_level: 'replica' })
  const relay = await s.relay()
  await expectWaiting(relay, 'setup_interrupted', /outrider setup/)
  const client = await database.connect()
  onTestFinished(() => client.end().catch(() => {}))
  const options = { slot: s.slot, publication: 'outrider', source: undefined, outboxTable: 'outrider.outbox' }
  await expect(setUp(client, { ...options, partitions: new Map() })).rejects.toThrow('wal_level')
  await server.stop()
  await server.start({ wal_level: 'logical' })
  const after = await database.connect()
  onTestFinished(() => after.end().catch(() => {}))
  await setUp(after, { ...options, partitions: new Map() })
  await relay.streaming()
  const { rows } = await after.query("select outrider.publish('orders', 'test.happened', '{}') as id")
  await until(async () => (await s.ids('orders')).includes(rows[0].id))
})
