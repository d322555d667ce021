import { expect, type TestContext } from 'vitest'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import { needsProcess, type Postgres, startPostgres, startProxy, until } from '../../testkit/services/index.js'
import { Database, PostgresServer } from '../../testkit/services/postgres-server.js'
import { tail } from '../../testkit/services/process.js'
import { TcpProxy } from '../../testkit/services/proxy.js'
import { relayTest as base, type RelayEnv } from './relay-env.js'
import { Release } from './release.js'
import { REPAIR } from './repair-env.js'

interface Lagging {
  env: RelayEnv
  primary: Postgres
  /** Has everything up to the end of a first session, which published one event to each of `orders` and `users`; nothing since. */
  standby: Postgres
  standbyDatabase: Database
  /** The address of the primary, as the relay knows it. */
  address: TcpProxy
  published: Record<string, string[]>
}

// The relay listens for 20 s for another one.
const test = base.extend<{ lagging: Lagging }>({
  lagging: async ({ createEnv, skip, onTestFinished }, use) => {
    needsProcess({ skip })
    const primary = await startPostgres()
    onTestFinished(() => primary.remove())
    const [version] = await primary.query<{ num: number }>("select current_setting('server_version_num')::int as num")
    if (version!.num < 170_000) skip('needs Postgres 17 or later: failover slots')
    const { name } = await primary.createDatabase()
    await primary.query("select pg_create_physical_replication_slot('standby')")
    const replication = await startProxy(primary.port)
    onTestFinished(() => replication.close())
    const settings = { hot_standby_feedback: 'on', primary_slot_name: 'standby' }
    const standby = await startPostgres({ standbyOf: primary, settings })
    onTestFinished(() => standby.remove())
    await standby.set({
      primary_conninfo: `host=127.0.0.1 port=${replication.port} user=postgres dbname=postgres`,
      sync_replication_slots: 'on',
    })
    const address = await startProxy(primary.port)
    onTestFinished(() => address.close())
    const database = new Database(new PostgresServer(address.url(primary.url())), name)
    const env = await createEnv({ database })

    const published = { orders: [await env.insert('orders')], users: [await env.insert('users')] }
    const relay = await env.relay({ OUTRIDER_DURABILITY: 'memory' })
    const standbyDatabase = new Database(new PostgresServer(standby.url()), name)
    await until(
      async () => {
        await primary.query('select pg_log_standby_snapshot()')
        const synced = 'select from pg_replication_slots where slot_name = $1 and synced and not temporary'
        const heads = await standbyDatabase.query('select from outrider.head').catch(() => [])
        return heads.length === 2 && (await standby.query(synced, [env.slot])).length === 1
      },
      { message: () => `slot and heads on the standby\n${tail(standby.log)}` },
    )
    await relay.stop()
    replication.refuse()
    replication.cut()
    await use({ env, primary, standby, standbyDatabase, address, published })
  },
})

test('a standby without the last session is promoted: after 20 s of silence the relay takes over what that session left, and a repair appends after it', async ({
  lagging: { env, primary, standby, standbyDatabase, address, published },
  onTestFinished,
}) => {
  const relay = await env.relay({ OUTRIDER_DURABILITY: 'memory', ...REPAIR })
  await relay.streaming()
  const lost = await env.insert('orders')
  await until(async () => (await env.ids('orders')).length === 2)

  await primary.kill()
  await address.close()
  await standby.promote()
  const promoted = new TcpProxy(standby.port, address.port)
  onTestFinished(() => promoted.close())
  await promoted.accept()
  const streaming = async (sessions: number) => {
    await until(async () => (await relay.metric('outrider_sessions_total')) === sessions, {
      message: () => relay.tail(20),
    })
    await relay.streaming()
  }
  await streaming(2)
  const began = (await relay.logged(({ msg }) => msg === 'session began', 2)).at(-1)
  const starting = relay.logs.findLast(({ msg }) => msg === 'starting')
  const listened = Date.parse(String(began?.time)) - Date.parse(String(starting?.time))
  expect(listened).toBeGreaterThanOrEqual(20_000)
  expect(listened).toBeLessThan(28_000)
  const connection = await standbyDatabase.connect()
  onTestFinished(() => connection.end())
  const incidents = () => listIncidents(connection, { closed: true })
  const phantoms = { kind: 'operator', reason: 'possible_phantoms', stream: 'orders', eventId: lost }
  expect(await incidents()).toEqual([expect.objectContaining(phantoms)])

  // The head is still that of the event which was lost.
  await connection.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
    env.slot,
  ])
  await streaming(3)
  expect(await incidents()).toHaveLength(1)
  const publish = async (stream: string): Promise<string> =>
    (await connection.query("select outrider.publish($1, 'test.happened', '{}') as id", [stream])).rows[0].id
  await connection.query("alter publication outrider set (publish = 'update')")
  const unseen = await publish('orders')
  await connection.query("alter publication outrider set (publish = 'insert')")
  const closed = { reason: 'publication_changed', resolution: 'repaired: 1 events put back' }
  await until(async () => (await incidents()).some(({ resolution }) => resolution === closed.resolution))
  expect(await incidents()).toMatchObject([closed, phantoms])
  expect(await env.ids('orders')).toEqual([...(published.orders as string[]), lost, unseen])
  await relay.streaming()
  const [order, user] = [await publish('orders'), await publish('users')]
  await until(async () => (await env.ids('users')).length === 2 && (await env.ids('orders')).length === 4)
  expect(await env.ids('orders')).toEqual([...(published.orders as string[]), lost, unseen, order])
  expect(await env.ids('users')).toEqual([...(published.users as string[]), user])
})

const COPY_HALTS = 'whose session it does not know halts as foreign, and disturbs nothing'

test(`a copy that is promoted next to a live relay ${COPY_HALTS}`, async ({ lagging, onTestFinished }) => {
  const relay = await lagging.env.relay({ OUTRIDER_DURABILITY: 'memory' })
  await copyHalts(lagging, relay, onTestFinished)
})

test(`a copy that is promoted next to a live relay of the last release, which cannot be heard, and ${COPY_HALTS}`, async ({
  lagging,
  skip,
  onTestFinished,
}) => {
  const released = await Release.before(['005-outbox']).catch((error: Error) => error)
  if (released instanceof Error) return skip(`the tree of the last release cannot be built: ${released.message}`)
  onTestFinished(() => released.remove())
  const variables = { ...lagging.env.variables, OUTRIDER_DURABILITY: 'memory' }
  const relay = await RelayProcess.start(variables, released.main)
  onTestFinished(() => relay.kill())
  await copyHalts(lagging, relay, onTestFinished)
})

async function copyHalts(
  { env, standby, standbyDatabase, published }: Lagging,
  relay: RelayProcess,
  onTestFinished: TestContext['onTestFinished'],
): Promise<void> {
  await relay.streaming()
  await standby.promote()
  const url = standbyDatabase.urlAs({ user: `relay_${standbyDatabase.name}` })
  const copy = await RelayProcess.start({ ...env.variables, OUTRIDER_POSTGRES_URL: url })
  onTestFinished(() => copy.kill())
  await copy.is({ role: 'halted', reason: 'session_unknown' })

  const orders = [...(published.orders as string[]), await env.insert('orders')]
  await until(async () => (await env.ids('orders')).length === 2)
  expect(await env.ids('orders')).toEqual(orders)
  expect(await relay.status()).toMatchObject({ role: 'active', state: 'streaming' })
  expect(await relay.metric('outrider_sessions_total')).toBe(1)
  expect(await listIncidents(env.postgres, { closed: true })).toEqual([])
}
