import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { check } from '../../src/cli/check.js'
import { setup } from '../../src/cli/setup.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { openIncident } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { RelayProcess } from '../../testkit/relay-process.js'
import {
  type Database,
  needsProcess,
  type Postgres,
  type Redis,
  startPostgres,
  startRedis,
  until,
} from '../../testkit/services/index.js'
import { runCommand } from '../support/command.js'
import { type Checked, paste, runCheck } from './run.js'

/** Outrider's roles must not be there at first, and settings change: this file's own servers. */
let postgres: Postgres
let redis: Redis
let database: Database

const SETTINGS = { max_slot_wal_keep_size: '1GB' }

beforeEach((context) => needsProcess(context))

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL || process.env.OUTRIDER_TEST_REDIS_URL) return
  postgres = await startPostgres({ syncs: false, settings: SETTINGS })
  redis = await startRedis({ settings: { maxmemory: '256mb', appendonly: 'yes' } })
  await postgres.query('create role relay login replication')
})

afterAll(async () => {
  await postgres?.remove()
  await redis?.remove()
})

beforeEach(async () => {
  database = await postgres.createDatabase()
})

afterEach(async () => {
  await database?.drop()
})

const look = (config = {}, flags = {}): Promise<Checked> =>
  runCheck(database.urlAs({ user: 'relay' }), redis.url, config, { 'before-setup': true, ...flags })
const brief = ({ code, findings }: Checked) => [code, ...findings.map(({ level, id }) => `${level} ${id}`)]

const READY = [0, 'info durability']

test('a server that is as it should be is ready before setup, and after it, whatever became of what it made', async () => {
  expect(await postgres.query("select from pg_roles where rolname like 'outrider%'")).toEqual([])
  expect(brief(await look())).toEqual(READY)
  await runCommand(setup, database.url)
  expect(brief(await look())).toEqual(READY)

  const client = await database.connect()
  const slot = `outrider_${database.name}`
  const { lineage } = (await currentLineage(client, slot))!
  await openIncident(client, { lineage, kind: 'gap', reason: 'outbox_renamed' })
  await client.query('grant outrider_relay to relay; drop publication outrider')
  await client.query('select pg_drop_replication_slot($1)', [slot])
  const whole = await runCheck(database.urlAs({ user: 'relay' }), redis.url)
  expect(whole.open).toEqual(['slot-missing', 'publication-missing', 'incident-open'])
  expect(brief(await look())).toEqual(READY)
  await client.query('revoke outrider_relay from relay')
  await client.end()
})

describe('WAL without a limit', () => {
  beforeEach(() => postgres.set({ max_slot_wal_keep_size: '-1' }))
  afterEach(() => postgres.set({ max_slot_wal_keep_size: null }))

  test.each(['before', 'after'])('is a blocker %s setup, with both ways on, and the first fixes it', async (when) => {
    if (when === 'after') await runCommand(setup, database.url)
    const found = await look()
    expect(brief(found)).toEqual([4, 'blocker slot-wal-unbounded', 'info durability'])
    const [limit, allow] = found.findings[0]!.fix
    expect(allow).toMatchObject({
      how: expect.stringContaining('setup.check.allowUnboundedWal=true'),
      text: 'outrider check --before-setup --allow-unbounded-wal',
    })
    const client = await database.connect()
    await paste(client, limit!.text)
    await client.end()
    await until(async () => (await look()).open.length === 0)
  })

  test('is a warning once someone allowed it, and warnings end with 0', async () => {
    const allowed = await look({}, { 'allow-unbounded-wal': true })
    expect(brief(allowed)).toEqual([0, 'warning slot-wal-unbounded', 'info durability'])
    expect(allowed.findings[0]!.fix).toHaveLength(1)
  })
})

test('what setup does not bring is a blocker: the right to replicate, and a table of the team', async () => {
  await postgres.query('alter role relay noreplication')
  expect(brief(await look())).toEqual([4, 'blocker replication-privilege', 'info durability'])
  await postgres.query('alter role relay replication')

  const mapped = { outbox: { ...OWN_OUTBOX, table: 'public.events' } }
  expect(brief(await look(mapped))).toEqual([4, 'blocker outbox-table-missing', 'info durability'])
  await database.query('create table events (id uuid primary key)')
  expect(brief(await look(mapped))).toEqual([4, 'blocker outbox-column-missing', 'info durability'])
})

test('what stands in the way in Redis is a blocker, and what does not is printed', async () => {
  const poor = await startRedis()
  const keys = poor.client()
  const at = () => runCheck(database.urlAs({ user: 'relay' }), poor.url, {}, { 'before-setup': true })
  try {
    expect(brief(await at())).toEqual([0, 'warning maxmemory-unset', 'warning persistence-off', 'info durability'])
    await keys.config('SET', 'maxmemory-policy', 'allkeys-lru')
    expect((await at()).findings[0]).toMatchObject({ level: 'blocker', id: 'eviction-policy' })
    expect((await at()).code).toBe(4)
  } finally {
    keys.disconnect()
    await poor.remove()
  }
})

test('slots and senders that are all taken stop a first install, and no upgrade while the relays run', async () => {
  const small = await startPostgres({
    syncs: false,
    settings: { ...SETTINGS, max_replication_slots: '1', max_wal_senders: '2' },
  })
  const relays: RelayProcess[] = []
  try {
    const [own, other] = [await small.createDatabase('own'), await small.createDatabase('other')]
    await runCommand(setup, own.url)
    for (const _ of ['active', 'standby']) {
      const env = { OUTRIDER_POSTGRES_URL: own.url, OUTRIDER_REDIS_URL: redis.url, OUTRIDER_SLOT: 'outrider_own' }
      relays.push(await RelayProcess.start(env))
    }
    const states = async () => Promise.all(relays.map(async (relay) => (await relay.status())?.state))
    await until(async () => (await states()).sort().join() === 'streaming,waiting')
    const at = (url: string) => runCheck(url, redis.url, {}, { 'before-setup': true })
    expect(brief(await at(own.url))).toEqual([0, 'warning slots-full', 'warning senders-full', 'info durability'])
    expect(brief(await at(other.url))).toEqual([4, 'blocker slots-full', 'blocker senders-full', 'info durability'])
  } finally {
    for (const relay of relays) await relay.kill()
    await small.remove()
  }
})

test('--allow-unbounded-wal alone is wrong usage', async () => {
  await expect(runCommand(check, database.url, { flags: { 'allow-unbounded-wal': true } })).rejects.toMatchObject({
    name: 'OutriderError',
    exitCode: 2,
    message: expect.stringContaining('expected --before-setup with it'),
  })
})
