import { expect, onTestFinished } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { ZERO_POSITION } from '../../src/event/position.js'
import { listIncidents } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { connectRedis } from '../../src/redis/client/connect.js'
import { StateStore } from '../../src/relay/confirm/state-store.js'
import { HaltError } from '../../src/relay/errors.js'
import type { HeadOwnership } from '../../src/relay/sink/head-ownership.js'
import { HeadTakeover } from '../../src/relay/sink/head-takeover.js'
import { classifyLoss, LossError } from '../../src/relay/sink/loss.js'
import { Publisher } from '../../src/relay/sink/publisher.js'
import { chainStart, type ServerWal } from '../../src/relay/sink/server-wal.js'
import { monitorSlot } from '../../src/relay/source/slot-monitor.js'
import { createRelayMetrics } from '../../src/telemetry/metrics.js'
import { freePort, needsProcess, startRedis, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest as test } from './relay-env.js'

const BEYOND = '00000001-00ffffff00000000-00000000'
const WITHIN = '00000001-0000000000001000-00000000'
const LATER = '00000001-0000000000002000-00000000'
const server: ServerWal = { history: { current: 1, switches: [] }, lsn: 0x1000000n, confirmed: 0n }

const gone = (env: RelayEnv, pid: number) =>
  until(async () => (await env.postgres.query('select from pg_stat_activity where pid = $1', [pid])).rowCount === 0)

/**
 * A session that began before the head in Redis was written, by a session of the same database: what it finds, at the start
 * and later, while it holds the lock or once its replication connection is gone.
 */
async function session(env: RelayEnv, position = BEYOND, saved = WITHIN, postgres = env.postgres) {
  const lineage = (await currentLineage(env.postgres, env.slot))!
  const other = crypto.randomUUID()
  await env.postgres.query(
    "insert into outrider.session (session, lineage, hostname, pid, version, timeline) values ($1, $2, 'h', 1, '1', 1)",
    [other, lineage.lineage],
  )
  const head = { position, event: 'e', entry: '0-0' }
  await env.redis.hset(headKey('orders', lineage.lineage), { ...head, session: other })
  await env.postgres.query(
    "insert into outrider.head (lineage, session, stream_key, position, event_id, entry_id) values ($1, $2, 'orders', $3, 'e', '0-0') on conflict do nothing",
    [lineage.lineage, other, saved],
  )
  const replication = await env.database.connect()
  const { rows } = await replication.query('select pg_advisory_lock(1), pg_backend_pid() as pid')
  const stateStore = new StateStore(postgres, lineage, crypto.randomUUID(), rows[0].pid)
  const ownership: HeadOwnership = {
    ...{ lineage: lineage.lineage, session: crypto.randomUUID() },
    owns: (each) => stateStore.owns(each),
    numberOf: (each) => stateStore.numberOf(each),
    chain: (found, saved) => chainStart(found, saved, server),
    mayBeUnrecorded: () => false,
    savedPosition: async () => undefined,
    othersAreSilent: async () => false,
    tookOver: async () => {},
  }
  const nothing = () => {}
  let connections = 0
  const publisher = new Publisher({
    ...ownership,
    limits: { batchEvents: 1, batchBytes: 1 },
    connect: () => {
      connections += 1
      return connectRedis({ url: env.variables.OUTRIDER_REDIS_URL!, connectTimeout: 5_000 }, 'leadership')
    },
    prepare: async () => {},
    reject: async () => {},
    ...{ done: nothing, failed: nothing, lost: nothing, drained: nothing },
    observe: { appended: nothing, known: nothing, blocked: nothing },
  })
  onTestFinished(() => publisher.close())
  await publisher.start()
  const { signal } = new AbortController()
  let undisputed = false
  const takeover = new HeadTakeover({
    ...{ ownership, publisher, stateStore, lineage, server, signal, blocked: nothing, lookAgainAfterMs: 10 },
    undisputed: () => {
      undisputed = true
    },
  })
  return {
    pid: rows[0].pid as number,
    replication,
    saysThatItLeads: () => undisputed,
    connections: () => connections,
    atStart: () => takeover.run().catch((error) => error),
    watch: () =>
      stateStore.inTurn((client) =>
        monitorSlot(client, lineage, createRelayMetrics(), () => stateStore.holdsLock(client)).catch((error) => error),
      ),
    later: () =>
      classifyLoss(
        new LossError('BEYOND', 'orders', { head, session: other, error: '' }, ZERO_POSITION),
        ...([stateStore, lineage, server] as const),
      ),
  }
}

test('a head beyond the WAL, found by the session that holds the lock, at its start or later: the database is a copy', async ({
  env,
}) => {
  const { replication, atStart, later, saysThatItLeads } = await session(env)
  const halts = [await atStart(), await later()]
  await replication.end()
  expect(saysThatItLeads()).toBe(false)
  expect(halts.map((halt) => halt instanceof HaltError && halt.reason)).toEqual(['wal_beyond', 'wal_beyond'])
  expect(await listIncidents(env.postgres)).toMatchObject([{ kind: 'foreign', reason: 'wal_beyond', stream: 'orders' }])
})

test('a head beyond the WAL, found by a session that has lost its lock unheard, opens no incident: another session has published since', async ({
  env,
}) => {
  const { pid, replication, atStart, later } = await session(env)
  await replication.end()
  await gone(env, pid)
  for (const found of [await atStart(), await later()]) expect(found).toBeInstanceOf(LossError)
  expect(await listIncidents(env.postgres)).toEqual([])
})

test('a session that waits before it takes over its heads says already that it leads: one that is promoted meanwhile must hear it', async ({
  env,
}) => {
  const { replication, atStart, saysThatItLeads } = await session(env, WITHIN, LATER)
  expect(await atStart()).toMatchObject({ reason: 'stream_behind' })
  await replication.end()
  expect(saysThatItLeads()).toBe(true)
})

test('what a session sees of the publication once it has lost its lock is no incident; with the lock it is', async ({
  env,
}) => {
  const { pid, replication, watch } = await session(env)
  await env.postgres.query('drop publication outrider')
  await replication.end()
  await gone(env, pid)
  expect(await watch()).not.toBeInstanceOf(HaltError)
  expect(await listIncidents(env.postgres)).toEqual([])
  const other = await session(env)
  expect(await other.watch()).toMatchObject({ reason: 'publication_missing' })
  await other.replication.end()
  expect(await listIncidents(env.postgres)).toMatchObject([{ reason: 'publication_missing' }])
})

test('a connection to Postgres that breaks while the heads are read ends the session, and is not held against Redis', async ({
  env,
}) => {
  const broken = await env.database.connect()
  const { replication, atStart } = await session(env, WITHIN, WITHIN, broken)
  await broken.end()
  expect(await atStart()).toMatchObject({ message: expect.stringContaining('closed') })
  await replication.end()
})

test('a primary that becomes a replica after it was connected to proves no loss: it is asked again until it is a primary', async ({
  createEnv,
  skip,
}) => {
  needsProcess({ skip }, ['redis'])
  const redis = await startRedis()
  const env = await createEnv({ redis })
  const { replication, atStart, connections } = await session(env, WITHIN, LATER)
  await redis.command('REPLICAOF', '127.0.0.1', String(await freePort()))
  let found: unknown
  const taken = atStart().then((result) => {
    found = result ?? 'all heads are taken over'
  })
  // A loss is recorded at the second look.
  await until(() => found !== undefined || connections() > 3)
  expect(found).toBeUndefined()
  await redis.command('REPLICAOF', 'NO', 'ONE')
  const [key] = await env.redis.keys('*head*')
  await env.redis.hset(key!, { position: LATER })
  await taken
  await replication.end()
  expect(found).toBe('all heads are taken over')
  expect(await listIncidents(env.postgres, { closed: true })).toEqual([])
})

test('the loss of many streams is recorded in few statements', async ({ env }) => {
  const { replication, atStart } = await session(env, WITHIN, LATER)
  await env.postgres.query(
    `insert into outrider.head (lineage, session, stream_key, position, event_id, entry_id)
     select lineage, session, 'many-' || n, $1, 'e', '1-0' from outrider.head cross join generate_series(1, 499) as n`,
    [LATER],
  )
  const before = await statements(env)
  expect(await atStart()).toMatchObject({ reason: 'stream_behind' })
  await replication.end()
  expect((await env.postgres.query('select from outrider.incident')).rowCount).toBe(1)
  expect((await env.postgres.query('select from outrider.gap_stream')).rowCount).toBe(500)
  expect((await statements(env)) - before).toBeLessThan(60)
})

/** Transactions of this database that are counted: each statement of the state store is one. */
async function statements(env: RelayEnv): Promise<number> {
  await env.postgres.query('select pg_stat_force_next_flush()')
  const { rows } = await env.postgres.query(
    'select xact_commit::int as count from pg_stat_database where datname = current_database()',
  )
  return rows[0].count
}
