import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Finding } from '../../src/check/finding.js'
import { adopt } from '../../src/cli/adopt.js'
import { incidents } from '../../src/cli/incidents.js'
import { setup } from '../../src/cli/setup.js'
import { OWN_OUTBOX } from '../../src/config/schema.js'
import { recordLostStreams } from '../../src/postgres/state/gaps.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { verifyPublication } from '../../src/relay/identity.js'
import {
  type Database,
  needsProcess,
  type Postgres,
  type Redis,
  startPostgres,
  startRedis,
  until,
} from '../../testkit/services/index.js'
import { chosenVersion } from '../../testkit/services/postgres-binaries.js'
import { runCommand } from '../support/command.js'
import { holdLock } from '../support/lock-holder.js'
import { startPooler } from '../support/pooler.js'
import { type Checked, paste, runCheck } from './run.js'

/** As a careful administrator has it; cluster-wide settings change, so it is this file's own. */
const SETTINGS = { max_slot_wal_keep_size: '1GB', max_prepared_transactions: '5' }

/** Too low, below PostgreSQL 19; there that is `minimal`, which allows no WAL sender. */
const WAL_LEVEL = chosenVersion() < 19 ? { wal_level: 'replica' } : undefined

let postgres: Postgres
let redis: Redis
let database: Database
let client: pg.Client
let slot: string
let role: string

beforeEach((context) => needsProcess(context))

beforeAll(async () => {
  if (process.env.OUTRIDER_TEST_POSTGRES_URL || process.env.OUTRIDER_TEST_REDIS_URL) return
  postgres = await startPostgres({ syncs: false, settings: SETTINGS })
  redis = await startRedis({ settings: { maxmemory: '256mb', appendonly: 'yes' } })
})

afterAll(async () => {
  await postgres?.remove()
  await redis?.remove()
})

beforeEach(async () => {
  database = await postgres.createDatabase()
  client = await database.connect()
  slot = `outrider_${database.name}`
  role = `relay_${database.name}`
  await runCommand(setup, database.url)
  await client.query(`create role ${role} login replication in role outrider_relay`)
})

afterEach(async () => {
  await client.end()
  await database.drop()
  await postgres.query(`drop role ${role}`)
})

const look = (config = {}): Promise<Checked> => runCheck(database.urlAs({ user: role }), redis.url, config)
const found = async (id: string, config = {}): Promise<Finding> => {
  const { open, code, findings } = await look(config)
  expect(open).toEqual([id])
  expect(code).toBe(4)
  return findings.find((finding) => finding.id === id)!
}
const healthy = async () => expect((await look()).open).toEqual([])

test('a set-up that is as it should be gives no finding, and nothing is left behind', async () => {
  const slots = await postgres.query('select slot_name, confirmed_flush_lsn from pg_replication_slots')
  const { code, findings } = await look()
  expect(findings.map(({ level, id }) => [level, id])).toEqual([['info', 'durability']])
  expect(code).toBe(0)
  const keys = redis.client()
  expect(await keys.keys('*')).toEqual([])
  keys.disconnect()
  expect(await postgres.query('select slot_name, confirmed_flush_lsn from pg_replication_slots')).toEqual(slots)
  expect(await client.query('select from outrider.incident')).toMatchObject({ rowCount: 0 })
})

describe('one thing wrong is one finding, and its statement mends it:', () => {
  const cases: [string, string, () => Promise<unknown>, string][] = [
    [
      'a role without REPLICATION',
      'replication-privilege',
      () => client.query(`alter role ${role} noreplication`),
      'alter role "ROLE" replication;',
    ],
    [
      'a role that is no member',
      'relay-role',
      () => client.query(`revoke outrider_relay from ${role}`),
      'grant outrider_relay to "ROLE";',
    ],
    [
      'a role without a right that came later',
      'prune-privilege',
      () => client.query('revoke delete on outrider.incident from outrider_relay'),
      'grant delete on outrider.incident to "ROLE";',
    ],
    [
      'the relay as synchronous standby',
      'synchronous-standby-names',
      () => postgres.set({ synchronous_standby_names: '*' }),
      "alter system set synchronous_standby_names = '';\nselect pg_reload_conf();",
    ],
    [
      'WAL without a limit',
      'slot-wal-unbounded',
      () => postgres.set({ max_slot_wal_keep_size: '-1' }),
      "alter system set max_slot_wal_keep_size = '20GB';\nselect pg_reload_conf();",
    ],
    [
      'a wal_sender_timeout of 0',
      'wal-sender-timeout',
      () => postgres.set({ wal_sender_timeout: '0' }),
      "alter system set wal_sender_timeout = '60s';\nselect pg_reload_conf();",
    ],
    [
      'a database that is read only by default',
      'read-only-by-default',
      () => client.query(`alter database ${database.name} set default_transaction_read_only = on`),
      'alter database "DATABASE" reset default_transaction_read_only;',
    ],
  ]
  test.each(cases)('%s', async (_what, id, spoil, statement) => {
    await spoil()
    const { fix } = await found(id)
    expect(fix[0]?.text).toBe(statement.replace('ROLE', role).replace('DATABASE', database.name))
    await paste(client, fix[0]!.text)
    await until(async () => (await look()).open.length === 0)
  })

  test('a role that does not inherit', async () => {
    await client.query(
      `alter role ${role} noinherit; revoke outrider_relay from ${role}; grant outrider_relay to ${role}`,
    )
    const { is, fix } = await found('relay-role')
    expect(is).toContain('does not inherit')
    await paste(client, fix[0]!.text)
    await healthy()
  })

  test('a publication that is gone: before PostgreSQL 18 adopt, where nothing is repaired by itself', async ({
    skip,
  }) => {
    if (chosenVersion() >= 18) skip('PostgreSQL 18 and later decode what was written meanwhile')
    await client.query('drop publication outrider')
    const { findings } = await look({ onGap: 'halt' })
    expect(findings.find(({ id }) => id === 'publication-missing')!.fix[0]?.text).toBe('outrider adopt')
    expect((await found('publication-missing')).fix.map(({ text }) => text)).toEqual([
      'outrider setup',
      'outrider relay',
    ])
    await runCommand(adopt, database.url, { answer: true })
    await healthy()
  })

  test('a publication that is gone: from PostgreSQL 18 on setup makes it again, and the gap waits for a decision', async ({
    skip,
  }) => {
    if (chosenVersion() < 18) skip('PostgreSQL 17 and earlier cannot decode what was written meanwhile')
    await client.query('drop publication outrider')
    expect((await found('publication-missing')).fix[0]?.text).toBe('outrider setup')
    await runCommand(setup, database.url)
    const { fix } = await found('incident-open')
    const [, id] = /^outrider incidents show (\d+)$/m.exec(fix[0]!.text)!
    await runCommand(incidents, database.url, { args: ['close', id!], answer: true })
    await healthy()
  })

  test('a publication that was altered: created again without a moment in between, then decided on', async () => {
    await client.query("alter publication outrider set (publish = 'insert, update')")
    const { fix } = await found('publication-changed')
    await paste(client, fix[0]!.text)
    const lineage = (await currentLineage(client, slot))!
    await verifyPublication(client, lineage).catch(() => {})
    await runCommand(incidents, database.url, { args: ['close', '1'], answer: true })
    await healthy()
    expect(await client.query('select pubupdate from pg_publication')).toMatchObject({ rows: [{ pubupdate: false }] })
  })

  test('a publication that leaves rows out is found, also where that was accepted before', async () => {
    await client.query(`alter publication outrider set table outrider.outbox where (stream = 'orders');
      update outrider.lineage set publication_state = outrider.publication_state(publication)`)
    const { is, fix } = await found('publication-changed')
    expect(is).toBe('publication outrider is to publish outrider.outbox, but leaves out rows or columns of it')
    await paste(client, fix[0]!.text)
    await client.query('update outrider.lineage set publication_state = outrider.publication_state(publication)')
    await healthy()
  })

  test('a slot that is gone: the relay repairs it, or adopt where nothing is repaired by itself', async () => {
    await client.query('select pg_drop_replication_slot($1)', [slot])
    expect((await found('slot-missing')).fix[0]?.text).toBe('outrider relay')
    const { findings } = await look({ onGap: 'halt' })
    expect(findings.find(({ id }) => id === 'slot-missing')!.fix[0]?.text).toBe('outrider adopt')
    await runCommand(adopt, database.url, { answer: true })
    await healthy()
  })

  test('a gap that the relay repairs is no blocker, and one that is repaired is not mentioned', async () => {
    const { lineage } = (await currentLineage(client, slot))!
    await recordLostStreams(client, { lineage, walsender: await holdLock(client) }, [
      { key: 'orders', snapshot: null, since: null, head: null, detail: {} },
    ])
    expect((await look()).findings).toContainEqual(
      expect.objectContaining({
        ...{ id: 'gap-repairing', level: 'info' },
        is: 'the relay repairs incident 1: gap, stream_behind in 1 stream',
      }),
    )
    await healthy()
    const { open, findings } = await look({ onGap: 'halt' })
    expect(open).toEqual(['incident-open'])
    expect(findings.find(({ id }) => id === 'incident-open')!.fix[0]?.text).toBe(
      'outrider incidents show 1\noutrider incidents repair 1',
    )
    await client.query('update outrider.incident set repaired_at = clock_timestamp()')
    expect((await look({ onGap: 'halt' })).findings.map(({ id }) => id)).toEqual(['durability'])
  })

  test('a prepared transaction that may have been forgotten is named at once', async () => {
    await client.query("begin; select pg_current_xact_id(); prepare transaction 'it''s orphaned'")
    const { findings } = await look()
    const finding = findings.find(({ id }) => id === 'prepared-transaction')!
    expect(finding).toMatchObject({ level: 'info', is: expect.stringContaining("it's orphaned in database") })
    await paste(client, finding.fix[0]!.text)
    expect((await look()).findings.map(({ id }) => id)).toEqual(['durability'])
  })

  test('a column that the mapping names and the table has not', async () => {
    const outbox = { ...OWN_OUTBOX, columns: { ...OWN_OUTBOX.columns, subject: 'aggregateid' } }
    expect(await found('outbox-column-missing', { outbox })).toMatchObject({
      is: 'outrider.outbox has no column aggregateid (outbox.columns.subject)',
    })
  })

  test('a pooler in between', async () => {
    const pooler = await startPooler(postgres.port)
    try {
      const url = new URL(database.urlAs({ user: role }))
      url.port = String(pooler.port)
      const { findings, open } = await runCheck(url.href, redis.url)
      expect(open).toEqual(['pooler'])
      expect(findings[0]).toMatchObject({ level: 'blocker', is: expect.stringContaining('parameter: replication') })
    } finally {
      pooler.close()
    }
  })

  test('another source than the one that was set up', async () => {
    const { fix } = await found('config-differs', { source: '/other' })
    expect(fix[0]?.text).toBe(`OUTRIDER_SOURCE=/${database.name}`)
  })
})

test('a standby slot that confirms nothing holds up the relay, and is named until the setting leaves it out', async (context) => {
  const [row] = await postgres.query<{ version: number }>(
    "select current_setting('server_version_num')::int as version",
  )
  if (row!.version < 170_000) context.skip('synchronized_standby_slots exists in PostgreSQL 17 and later')
  await client.query("select pg_create_physical_replication_slot('away')")
  await postgres.set({ synchronized_standby_slots: 'away, nowhere' })
  const { open, findings } = await look()
  expect(open).toContain('standby-slots')
  const finding = findings.find(({ id }) => id === 'standby-slots')!
  expect(finding).toMatchObject({
    level: 'blocker',
    is: expect.stringMatching(/away, which is inactive, and nowhere, which is missing/),
  })
  await paste(client, finding.fix[0]!.text)
  await until(async () => !(await look()).open.includes('standby-slots'))
  await client.query("select pg_drop_replication_slot('away')")
})

test('time-outs that are set for the role are named, and do not hold for the relay', async () => {
  await client.query(`alter role ${role} set idle_session_timeout = '5min'`)
  const [row] = await postgres.query<{ version: number }>(
    "select current_setting('server_version_num')::int as version",
  )
  const since17 = row!.version >= 170_000
  if (since17) await client.query(`alter database ${database.name} set transaction_timeout = '30s'`)
  const { open, findings } = await look()
  expect(open).toEqual([])
  const named = findings.filter(({ id }) => id.endsWith('-timeout')).map(({ is }) => is)
  expect(named).toEqual([
    ...(since17 ? ['transaction_timeout is 30000 ms (set by: database)'] : []),
    'idle_session_timeout is 300000 ms (set by: user)',
  ])
})

test('a database without the schema, and one whose schema is older', async () => {
  const other = await postgres.createDatabase()
  try {
    const before = await runCheck(other.urlAs({ user: role }), redis.url)
    expect(before.open).toEqual(['setup-missing'])
    await runCommand(setup, other.url)
    expect((await runCheck(other.urlAs({ user: role }), redis.url)).open).toEqual([])
    await other.query('delete from outrider.migration where version = (select max(version) from outrider.migration)')
    expect((await runCheck(other.urlAs({ user: role }), redis.url)).open).toEqual(['schema-outdated'])
  } finally {
    await other.drop()
  }
})

test('limits of the cluster: wal_level, slots and senders, each fixed by its statement and a restart', async () => {
  const small = await startPostgres({
    syncs: false,
    settings: { ...SETTINGS, ...WAL_LEVEL, max_replication_slots: '1', max_wal_senders: '1' },
  })
  const held: pg.Client[] = []
  try {
    const own = await small.createDatabase()
    const at = async () => runCheck(own.url, redis.url)
    const mend = async ({ findings }: Checked, id: string) => {
      const admin = await own.connect()
      await paste(admin, findings.find((finding) => finding.id === id)!.fix[0]!.text)
      await admin.end()
      for (const each of held.splice(0)) await each.end()
      await small.stop()
      await small.start()
    }
    const cold = await at()
    expect(cold.open).toEqual(WAL_LEVEL ? ['wal-level', 'setup-missing'] : ['setup-missing'])
    if (WAL_LEVEL) await mend(cold, 'wal-level')
    await runCommand(setup, own.url)
    const full = await at()
    expect(full.open).toEqual(['slots-full'])
    await mend(full, 'slots-full')
    const walsender = new pg.Client({ connectionString: own.url, replication: 'database' } as pg.ClientConfig)
    await walsender.connect()
    held.push(walsender)
    const busy = await at()
    expect(busy.open).toEqual(['senders-full'])
    await mend(busy, 'senders-full')
    expect((await at()).open).toEqual([])
  } finally {
    await small.remove()
  }
})
