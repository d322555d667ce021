import { describe, expect, test } from 'vitest'
import type { Finding } from './finding.js'
import { assessLink } from './link.js'
import { assessKind, assessServer, type BeforeSetup } from './server.js'
import type { ServerFacts, SettingFact } from './server-facts.js'

const setting = (value: string): SettingFact => ({ value, source: 'default', pendingRestart: false })

const SETTINGS = {
  wal_level: setting('logical'),
  max_replication_slots: setting('10'),
  max_wal_senders: setting('10'),
  wal_sender_timeout: setting('60000'),
  max_slot_wal_keep_size: setting('20480'),
  synchronous_standby_names: setting(''),
  default_transaction_read_only: setting('off'),
}

const GOOD: ServerFacts = {
  version: 180_000,
  versionText: '18.0',
  database: 'shop',
  role: 'relay',
  provider: undefined,
  inRecovery: false,
  encoding: 'UTF8',
  settings: SETTINGS,
  slots: 1,
  senders: 1,
  standbys: { present: false, names: [] },
  silentStandbySlots: [],
  prepared: [],
  writers: [],
  backend: { answering: 7, announced: 7 },
}

const SLOT = { name: 'outrider_shop', exists: true, active: false }
const assess = (facts: Partial<ServerFacts>, slot = {}, before?: BeforeSetup): Finding[] =>
  assessServer({ ...GOOD, ...facts }, { ...SLOT, ...slot }, before)
const brief = (findings: Finding[]) => findings.map(({ level, id }) => `${level} ${id}`)
const fixes = (findings: Finding[]) => findings.flatMap(({ fix }) => fix.map(({ text }) => text))

test('a good server gives nothing', () => {
  expect(assess({})).toEqual([])
  expect(assessKind(GOOD)).toBeUndefined()
})

test.each<[string, Partial<ServerFacts>]>([
  ['postgres-version', { version: 140_011, versionText: '14.11' }],
  ['postgres-standby', { inRecovery: true }],
])('nothing else can be looked at: %s', (id, facts) => {
  expect(assessKind({ ...GOOD, ...facts })).toMatchObject({ level: 'blocker', id })
})

describe('each service has its own way to change a setting:', () => {
  const spoiled = { settings: { ...SETTINGS, wal_level: setting('replica') } }
  test.each<[ServerFacts['provider'], string]>([
    [undefined, "alter system set wal_level = 'logical';"],
    ['rds', 'rds.logical_replication = 1'],
    ['cloudsql', 'gcloud sql instances patch <instance> --database-flags=cloudsql.logical_decoding=on'],
    [
      'azure',
      'az postgres flexible-server parameter set --resource-group <group> --server-name <server> --name wal_level --value logical',
    ],
  ])('%s', (provider, text) => {
    expect(fixes(assess({ ...spoiled, provider }))).toEqual([text])
  })

  test('plain numbers where a service requires them, and a metric where it keeps the setting to itself', () => {
    const settings = { ...SETTINGS, max_slot_wal_keep_size: setting('-1') }
    expect(fixes(assess({ settings, provider: 'rds' }))).toEqual(['max_slot_wal_keep_size = 20480'])
    expect(fixes(assess({ settings, provider: 'azure' }))).toEqual(['outrider_slot_retained_wal_bytes'])
  })
})

test.each<[number, string, string[]]>([
  [180_004, 'replica', ['logical']],
  [180_004, 'minimal', ['logical']],
  [190_000, 'replica', []],
  [190_000, 'minimal', ['replica or logical']],
])('PostgreSQL %i with wal_level %s expects %j', (version, level, expected) => {
  const settings = { ...SETTINGS, wal_level: setting(level) }
  const found = assess({ version, settings }).filter(({ id }) => id === 'wal-level')
  expect(found.map((finding) => finding.expected)).toEqual(expected)
})

test.each<[Partial<ServerFacts['settings']>, string[]]>([
  [{ wal_sender_timeout: setting('0') }, ['warning wal-sender-timeout']],
  [{ wal_sender_timeout: setting('500') }, ['warning wal-sender-timeout']],
  [{ wal_sender_timeout: setting('5000') }, []],
  [{ wal_sender_timeout: setting('3600000') }, ['warning wal-sender-timeout']],
  [{ idle_replication_slot_timeout: setting('3600') }, ['warning idle-slot-timeout']],
  [{ idle_replication_slot_timeout: setting('0') }, []],
  [{ transaction_timeout: setting('30000') }, ['info transaction-timeout']],
  [{ idle_session_timeout: setting('60000') }, ['info idle-session-timeout']],
  [{ transaction_timeout: setting('0'), idle_session_timeout: setting('0') }, []],
])('settings %j give %j', (settings, expected) => {
  expect(brief(assess({ settings: { ...SETTINGS, ...settings } as ServerFacts['settings'] }))).toEqual(expected)
})

test('what is taken already matters less where the relay has its own', () => {
  const full = { slots: 10, senders: 10 }
  expect(brief(assess(full, { exists: false }))).toEqual(['blocker slots-full', 'blocker senders-full'])
  expect(brief(assess(full, { active: true }))).toEqual(['warning slots-full', 'warning senders-full'])
})

test('WAL without a limit stops a first setup, unless someone allowed it or no one can set one', () => {
  const unbounded = { settings: { ...SETTINGS, max_slot_wal_keep_size: setting('-1') } }
  const first = (allowUnboundedWal: boolean, provider?: ServerFacts['provider']) =>
    brief(assess({ ...unbounded, provider }, { exists: false }, { allowUnboundedWal }))
  expect(first(false)).toEqual(['blocker slot-wal-unbounded'])
  expect(first(false, 'rds')).toEqual(['blocker slot-wal-unbounded'])
  expect(first(true)).toEqual(['warning slot-wal-unbounded'])
  expect(first(false, 'azure')).toEqual(['warning slot-wal-unbounded'])
  expect(brief(assess(unbounded))).toEqual(['warning slot-wal-unbounded'])
  expect(brief(assess({}, {}, { allowUnboundedWal: false }))).toEqual([])
})

test('standbys that may not be seen are not forgotten', () => {
  const settings = { ...SETTINGS, synchronous_standby_names: setting('*') }
  const hidden = assess({ settings, standbys: { present: true, names: [] } })
  expect(fixes(hidden)[0]).toContain('"<application_name of your standby>"')
  expect(fixes(assess({ settings, standbys: { present: true, names: ['replica1'] } }))[0]).toContain("= 'replica1';")
})

test('transactions become a warning with time, sooner where a slot is still to be made', () => {
  const prepared = { gid: 'a', database: 'shop', owner: 'app', seconds: 61 }
  expect(brief(assess({ prepared: [prepared] }))).toEqual(['warning prepared-transaction'])
  expect(brief(assess({ prepared: [{ ...prepared, seconds: 59 }] }))).toEqual(['info prepared-transaction'])
  const writers = [{ pid: 9, database: 'shop', application: 'import', seconds: 60 }]
  expect(brief(assess({ writers }))).toEqual([])
  expect(fixes(assess({ writers }, { exists: false }))).toEqual(['select pg_terminate_backend(9);'])
  expect(brief(assess({ writers: [{ ...writers[0]!, seconds: null }] }, { exists: false }))).toEqual([])
})

describe('what stands in between', () => {
  const reached = { systemId: '1', timeline: 1 }
  const rights = { replication: true }
  test.each<[string, Parameters<typeof assessLink>, string | undefined]>([
    ['nothing', [reached, GOOD, { systemId: '1' }, rights], undefined],
    ['another server for replication', [reached, GOOD, { systemId: '2' }, rights], 'blocker pooler'],
    [
      'one that invents process ids',
      [reached, { ...GOOD, backend: { answering: 7, announced: 8 } }, undefined, rights],
      'warning pooler',
    ],
    [
      'one that refuses replication',
      [{ code: '08P01', message: 'unsupported startup parameter: replication' }, GOOD, undefined, rights],
      'blocker pooler',
    ],
    [
      'pg_hba.conf',
      [{ code: '28000', message: 'no pg_hba.conf entry' }, GOOD, undefined, rights],
      'blocker replication-refused',
    ],
    [
      'a privilege that lacks, said elsewhere',
      [{ code: '42501', message: 'permission denied' }, GOOD, undefined, { replication: false }],
      undefined,
    ],
    [
      'senders that are full, said elsewhere',
      [{ code: '53300', message: 'max_wal_senders' }, { ...GOOD, senders: 10 }, undefined, rights],
      undefined,
    ],
  ])('%s', (_what, args, expected) => {
    const finding = assessLink(...args)
    expect(finding && `${finding.level} ${finding.id}`).toBe(expected)
  })
})
