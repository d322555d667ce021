import pg from 'pg'
import { canDecode, decodableLevels } from '../postgres/replication/wal-level.js'
import { type Assessment, blocker, type Finding, info, onShell, warning } from './finding.js'
import { logicalFix, settingFix } from './provider.js'
import type { ServerFacts } from './server-facts.js'
import { assessSessionTimeouts } from './session-timeouts.js'
import { matchesStandby, parseStandbyNames, withoutStandby } from './standby-names.js'

/** What of the relay matters here: its slot may be there already, and be in use. */
export interface OwnSlot {
  name: string
  exists: boolean
  active: boolean
}

/** Set where `outrider setup` is still to run, and what stands in its way has to stop it. */
export interface BeforeSetup {
  /** Someone decided that WAL may grow. */
  allowUnboundedWal: boolean
}

/** A server on which nothing else can be looked at; undefined when it is one that Outrider can use. */
export function assessKind({ version, versionText, inRecovery }: ServerFacts): Finding | undefined {
  if (version < 150_000) {
    return blocker({
      id: 'postgres-version',
      is: `PostgreSQL ${versionText}`,
      expected: 'PostgreSQL 15 to 18',
      why: 'older servers lack what the outbox and its publication are made of',
      fix: [{ how: 'Upgrade the server', text: 'https://www.postgresql.org/docs/current/upgrading.html' }],
    })
  }
  if (inRecovery) {
    return blocker({
      id: 'postgres-standby',
      is: 'a standby (pg_is_in_recovery() is true)',
      expected: 'the primary',
      why: 'a standby takes no writes, and its WAL may still change',
      fix: [{ how: "In Outrider's configuration", text: 'OUTRIDER_POSTGRES_URL=postgres://<the primary>/…' }],
    })
  }
  return undefined
}

/** Settings and limits of the server. Pure. */
export function assessServer(facts: ServerFacts, slot: OwnSlot, before?: BeforeSetup): Finding[] {
  return [
    later(facts),
    encoding(facts),
    walLevel(facts),
    slotsLeft(facts, slot),
    sendersLeft(facts, slot),
    walSenderTimeout(facts),
    slotWalLimit(facts, before),
    idleSlotTimeout(facts),
    synchronousStandbys(facts, slot),
    readOnly(facts),
    ...assessSessionTimeouts(facts),
    ...preparedTransactions(facts),
    ...longTransactions(facts, slot),
  ].filter((finding) => finding !== undefined)
}

function later({ version, versionText }: ServerFacts): Finding | undefined {
  if (version < 190_000) return undefined
  return info({
    id: 'postgres-version',
    is: `PostgreSQL ${versionText}`,
    why: 'Outrider is tested with 15 to 18; 19 was tried as a release candidate',
  })
}

function encoding({ encoding, database }: ServerFacts): Finding | undefined {
  if (encoding === 'UTF8') return undefined
  return blocker({
    id: 'encoding',
    is: `database ${database} is in ${encoding}`,
    expected: 'UTF8',
    why: 'payloads could not be published as they were written',
    fix: [
      {
        how: 'In SQL: a new database, to which the data are moved',
        text: `create database ${pg.escapeIdentifier(`${database}_utf8`)} encoding 'UTF8' template template0;`,
      },
    ],
  })
}

function walLevel({ version, settings, provider }: ServerFacts): Finding | undefined {
  const { value, pendingRestart } = settings.wal_level ?? { value: 'unknown' }
  if (canDecode({ version, configured: value, effective: settings.effective_wal_level?.value })) return undefined
  return blocker({
    id: 'wal-level',
    is: `wal_level is ${value}${pendingRestart ? ', and a change waits for a restart' : ''}`,
    expected: decodableLevels(version),
    why: 'without it nothing can be decoded from WAL',
    fix: [logicalFix(provider)],
  })
}

function slotsLeft({ settings, slots, provider }: ServerFacts, slot: OwnSlot): Finding | undefined {
  const most = Number(settings.max_replication_slots?.value)
  if (slots < most) return undefined
  return (slot.exists ? warning : blocker)({
    id: 'slots-full',
    is: `${slots} of ${most} replication slots are taken`,
    expected: 'one left',
    why: slot.exists ? 'another relay, or a repair, would get none' : 'the relay reads from a slot of its own',
    fix: [settingFix(provider, { name: 'max_replication_slots', value: String(most + 4), restart: true })],
  })
}

function sendersLeft({ settings, senders, provider }: ServerFacts, slot: OwnSlot): Finding | undefined {
  const most = Number(settings.max_wal_senders?.value)
  if (senders < most) return undefined
  return (slot.active ? warning : blocker)({
    id: 'senders-full',
    is: `${senders} of ${most} WAL senders are taken`,
    expected: 'one left for each relay, standby relays included',
    why: slot.active ? 'a second relay could not wait next to the first' : 'the relay reads WAL through one',
    fix: [settingFix(provider, { name: 'max_wal_senders', value: String(most + 4), restart: true })],
  })
}

const SHORTEST_MS = 3_000
const LONGEST_MS = 300_000

function walSenderTimeout({ settings, provider }: ServerFacts): Finding | undefined {
  const timeout = Number(settings.wal_sender_timeout?.value)
  if (timeout >= SHORTEST_MS && timeout <= LONGEST_MS) return undefined
  return warning({
    id: 'wal-sender-timeout',
    is: timeout === 0 ? 'wal_sender_timeout is 0: never' : `wal_sender_timeout is ${timeout} ms`,
    expected: '3 s to 5 min',
    why:
      timeout > 0 && timeout < SHORTEST_MS
        ? 'a short pause of the network ends the stream'
        : 'a relay that vanished without a word keeps its successor out for as long',
    fix: [settingFix(provider, { name: 'wal_sender_timeout', value: '60s', plain: '60000' })],
  })
}

function slotWalLimit({ settings, provider }: ServerFacts, before?: BeforeSetup): Finding | undefined {
  if (settings.max_slot_wal_keep_size?.value !== '-1') return undefined
  // Before there is a slot nothing is held back yet: the moment to decide.
  const stops = before?.allowUnboundedWal === false && provider !== 'azure'
  return (stops ? blocker : warning)({
    id: 'slot-wal-unbounded',
    is: 'max_slot_wal_keep_size is -1: no limit',
    expected: 'a limit below the free space of the disk',
    why: 'while the relay is away its slot holds back WAL, and fills the disk in the end',
    fix: [
      // There it can only be read: https://learn.microsoft.com/azure/postgresql/server-parameters/param-replication-sending-servers
      provider === 'azure'
        ? {
            how: 'Azure keeps this setting to itself; raise an alert on the metric',
            text: 'outrider_slot_retained_wal_bytes',
          }
        : settingFix(provider, { name: 'max_slot_wal_keep_size', value: '20GB', plain: '20480' }),
      ...(stops ? [ALLOW_UNBOUNDED_WAL] : []),
    ],
  })
}

const ALLOW_UNBOUNDED_WAL = onShell(
  'outrider check --before-setup --allow-unbounded-wal',
  ', or setup.check.allowUnboundedWal=true in the Helm chart: to continue without a limit, and watch the disk instead',
)

function idleSlotTimeout({ settings, provider }: ServerFacts): Finding | undefined {
  const seconds = Number(settings.idle_replication_slot_timeout?.value ?? 0)
  if (seconds === 0) return undefined
  return warning({
    id: 'idle-slot-timeout',
    is: `idle_replication_slot_timeout is ${seconds} s`,
    expected: '0: never',
    why: 'a relay that is stopped for longer finds its slot invalidated, which is a gap',
    fix: [settingFix(provider, { name: 'idle_replication_slot_timeout', value: '0' })],
  })
}

/** Postgres cuts longer names. */
const NAME_BYTES = 63

function synchronousStandbys({ settings, standbys, provider }: ServerFacts, slot: OwnSlot): Finding | undefined {
  const setting = settings.synchronous_standby_names?.value ?? ''
  const relay = `outrider ${slot.name}`.slice(0, NAME_BYTES)
  const names = parseStandbyNames(setting)
  if (!matchesStandby(names, relay)) return undefined
  const hidden = standbys.present && standbys.names.length === 0
  const value = withoutStandby(names, relay, hidden ? ['<application_name of your standby>'] : standbys.names)
  return blocker({
    id: 'synchronous-standby-names',
    is: `synchronous_standby_names is '${setting}', which the relay matches as "${relay}"`,
    expected: 'the names of your standbys only',
    why: "the application's commits would wait for the relay, or take it for the standby that has their data",
    fix: [settingFix(provider, { name: 'synchronous_standby_names', value })],
  })
}

/** The relay's own writes set it away; where one role alone has it, that is no one else's affair. */
function readOnly({ settings, database, provider }: ServerFacts): Finding | undefined {
  const { value, source = '' } = settings.default_transaction_read_only ?? {}
  if (value !== 'on' || !['configuration file', 'command line', 'database'].includes(source)) return undefined
  return warning({
    id: 'read-only-by-default',
    is: 'default_transaction_read_only is on',
    expected: 'off',
    why: 'the relay sets it away for itself, but the inserts of the applications fail',
    fix: [
      source === 'database'
        ? {
            how: "In SQL, as the database's owner",
            text: `alter database ${pg.escapeIdentifier(database)} reset default_transaction_read_only;`,
          }
        : settingFix(provider, { name: 'default_transaction_read_only', value: 'off' }),
    ],
  })
}

/** Those who use them hold them for moments. */
const FORGOTTEN_S = 60

function preparedTransactions({ prepared }: ServerFacts): Finding[] {
  return prepared.map(({ gid, database, owner, seconds }) => {
    const finding: Assessment = {
      id: 'prepared-transaction',
      is: `prepared transaction ${gid} in database ${database}, open for ${duration(seconds)}`,
      expected: 'none that is left unfinished',
      why: 'it holds back WAL for the slot, and a new slot waits for its end',
      fix: [
        {
          how: `In SQL, in database ${database} as ${owner} or an administrator; commit prepared, where its work is needed`,
          text: `rollback prepared ${pg.escapeLiteral(gid)};`,
        },
      ],
    }
    return seconds < FORGOTTEN_S ? { level: 'info', ...finding } : warning(finding)
  })
}

const LONG_S = 600
/** While a slot is still to be made, which waits for each of them. */
const LONG_FOR_SETUP_S = 10

function longTransactions({ writers }: ServerFacts, slot: OwnSlot): Finding[] {
  const limit = slot.exists ? LONG_S : LONG_FOR_SETUP_S
  return writers.flatMap(({ pid, database, application, seconds }) => {
    if (seconds === null || seconds < limit) return []
    const who = [application && `"${application}"`, database && `in database ${database}`].filter(Boolean).join(' ')
    return warning({
      id: 'long-transaction',
      is: `process ${pid}${who && ` (${who})`} has had a write transaction open for ${duration(seconds)}`,
      expected: 'write transactions that end soon',
      why: slot.exists ? 'the slot holds back WAL since it began' : 'creating the slot waits for its end',
      fix: [{ how: 'Let it end, or in SQL, as an administrator', text: `select pg_terminate_backend(${pid});` }],
    })
  })
}

function duration(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`
  return seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3_600)} h`
}
