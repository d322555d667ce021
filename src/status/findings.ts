import { assessNode } from '../check/redis-node.js'
import { parseRedisUrl } from '../config/redis-url.js'
import type { Config } from '../config/schema.js'
import { type Halting, haltingIncidents, inStreams } from '../postgres/state/halting.js'
import { isSelfRepairing, repairPolicy } from '../postgres/state/repair-state.js'
import { classifyRedis } from '../redis/client/errors.js'
import { answerOf } from './asked.js'
import { finding, type StatusFinding } from './finding.js'
import { formatDuration, formatSize, plural } from './format.js'
import { groupFindings } from './group-findings.js'
import type { LineageStatus, PostgresStatus } from './postgres.js'
import type { RedisStatus } from './redis.js'
import { describeRepair } from './repair-text.js'
import type { Status } from './status.js'
import { streamFindings } from './stream-findings.js'

/** The problems of a status, the most serious first. Pure. */
export function findingsOf(status: Status, config: Config): StatusFinding[] {
  const postgres = answerOf(status.postgres)
  const redis = answerOf(status.redis)
  return [
    ...unreachable(status),
    ...(postgres ? postgresFindings(postgres, status, config) : []),
    ...(redis ? redisFindings(redis, config) : []),
    ...(redis && postgres?.lineage ? streamFindings(redis, postgres.lineage) : []),
    ...groupFindings(status),
    ...status.inboxes.flatMap((inbox) =>
      'problem' in inbox && inbox.unreachable
        ? [finding('inbox-unreachable', `The inbox at ${inbox.place} was not asked: ${inbox.problem}`, CHECK_INBOX)]
        : [],
    ),
  ]
}

const CHECK_INBOX = 'Check the URL given to --inbox.'

const unreachable = ({ postgres, redis }: Status): StatusFinding[] => [
  ...('failure' in postgres ? [finding('postgres-unreachable', postgres.failure.message, 'outrider check')] : []),
  ...('failure' in redis ? [finding('redis-unreachable', redis.failure.message, 'outrider check')] : []),
]

function postgresFindings(postgres: PostgresStatus, status: Status, config: Config): StatusFinding[] {
  const { lineage } = postgres
  if (postgres.standby) {
    return [finding('postgres-standby', 'This Postgres is a standby.', 'Give the URL of the primary.')]
  }
  if (!lineage) {
    const is = `No lineage of slot ${config.slot} in this database: it is not set up, or OUTRIDER_SLOT is another.`
    return [finding('not-set-up', is, 'outrider setup')]
  }
  const halting = haltingOf(lineage, postgres.version, config)
  return [
    ...incidentFindings(lineage, halting, status),
    ...relayFindings(lineage, halting, status, config),
    ...slotFindings(lineage, config),
    ...backlogFindings(lineage, halting, status),
  ]
}

/** The gaps and foreign servers of a lineage, and what leads on from them. Pure. */
export const haltingOf = ({ incidents, outboxTable }: LineageStatus, version: number, config: Config): Halting[] =>
  haltingIncidents(incidents.newest, incidents.repair, version, repairPolicy(config, outboxTable))

/** One that is repaired and waits for transactions is none: nothing is held up. */
const haltingFindings = (halting: readonly Halting[], { relay }: Status): StatusFinding[] =>
  halting
    .filter(({ repair }) => repair.is !== 'settling')
    .map(({ incident, repair, steps, byItself }) => {
      const { id, kind, reason, openedAt } = incident
      // Its `onGap` is not the one of this configuration.
      const waits = byItself && repair.is === 'due' && relay?.role === 'halted' && relay.reason === reason
      const what = `${kind} ${reason}${inStreams(incident)}, since ${openedAt.toISOString()}.`
      const show = `outrider incidents show ${id}`
      const progress = describeRepair(repair)
      if (byItself && !waits) {
        const is = `Incident ${id} is being repaired: ${what} ${progress ?? 'The relay puts back what is missing, by itself.'}`
        return finding('gap-repairing', is, show)
      }
      const is = `Incident ${id} halts the relay: ${what}${progress ? ` ${progress}` : ''}`
      const repairs = waits ? [`outrider incidents repair ${id}`] : []
      return finding('incident-halting', is, show, ...steps.sql, ...steps.commands, ...repairs)
    })

function incidentFindings({ incidents }: LineageStatus, halting: readonly Halting[], status: Status): StatusFinding[] {
  const { rejected = 0, operator = 0 } = incidents.counts
  return [
    ...haltingFindings(halting, status),
    ...(rejected > 0
      ? [
          finding(
            'rows-rejected',
            `Rejected: ${plural(rejected, 'row')} could not be published.`,
            'outrider incidents list',
          ),
        ]
      : []),
    ...(operator > 0
      ? [
          finding(
            'incident-operator',
            `For an operator to look at: ${plural(operator, 'incident')}.`,
            'outrider incidents list',
          ),
        ]
      : []),
  ]
}

function relayFindings(
  { leader, session, sessions, silentStandbys }: LineageStatus,
  halting: readonly Halting[],
  { redis, relay }: Status,
  config: Config,
): StatusFinding[] {
  const findings: StatusFinding[] = []
  const alive = answerOf(redis)?.aliveSession
  const held = halting.filter(({ repair }) => repair.is !== 'settling')
  // Between the sessions of a repair, and while it is halted, no relay holds the lock: the incident says so.
  const isTold = held.some(({ incident, repair }) => {
    if (relay?.state === 'repairing') return true
    return relay?.reason === (repair.is === 'blocked' ? repair.halt.reason : incident.reason)
  })
  if (relay?.reason !== undefined) {
    const reasons = `docs/operations.md#reasons has ${relay.reason}.`
    if (!isTold) findings.push(finding('relay-blocked', `The relay says ${sayOf(relay)}.`, 'outrider check', reasons))
  } else if (!leader && halting.every(({ byItself }) => byItself)) {
    const last = session ? ` The last one ran on ${session.hostname}, since ${session.startedAt.toISOString()}.` : ''
    const said = relay ? ` The one on this machine says ${sayOf(relay)}.` : ''
    findings.push(finding('relay-missing', `No relay reads slot ${config.slot}.${last}${said}`, 'outrider relay'))
  } else if (leader && !relay && alive === null) {
    const is = 'A relay reads the slot, and has not been heard in Redis for 15 s.'
    findings.push(finding('relay-silent', is, "Look at the relay's /readyz, and at its Redis URL and ACL."))
  }
  // A repair renews the key before it records its session. Its own guard finds a copy.
  const mayRepair = held.some(({ incident }) => incident.kind === 'gap')
  if (typeof alive === 'string' && !sessions.includes(alive) && !mayRepair) {
    const is = `In Redis another relay leads this lineage: session ${alive}, which is none of this database.`
    findings.push(
      finding('relay-foreign', is, 'Stop the relay of the copy of this database, or run outrider adopt there.'),
    )
  }
  if (silentStandbys.length > 0) {
    const slots = silentStandbys.map(({ name, problem }) => `${name} is ${problem}`).join(', ')
    const is = `Postgres waits for the standbys in synchronized_standby_slots: ${slots}.`
    findings.push(finding('standby-not-confirming', is, 'outrider check'))
  }
  return findings
}

const sayOf = ({ role, state, reason, message }: NonNullable<Status['relay']>): string =>
  `${role === state ? role : `${role}, ${state}`}${reason ? `: ${reason}` : ''}${message ? ` (${message.replace(/\.$/, '')})` : ''}`

function slotFindings({ slot, incidents, outboxTable }: LineageStatus, config: Config): StatusFinding[] {
  if (incidents.newest.some(({ reason }) => reason.startsWith('slot_'))) return []
  const repaired = isSelfRepairing(repairPolicy(config, outboxTable))
  const next = repaired ? ['The relay records a gap when it looks, and repairs it.'] : ['outrider adopt']
  if (!slot) return [finding('slot-missing', `Slot ${config.slot} is missing.`, 'outrider check', ...next)]
  if (slot.walStatus === 'lost') {
    return [finding('slot-lost', `Slot ${config.slot} has lost WAL that it needed.`, ...next)]
  }
  const near = slot.safeBytes !== undefined && slot.retainedBytes > slot.safeBytes
  if (slot.walStatus !== 'unreserved' && !near) return []
  const left = slot.safeBytes === undefined ? '' : `, ${formatSize(Math.max(0, slot.safeBytes))} before it is lost`
  return [
    finding('slot-wal', `Slot ${config.slot} keeps ${formatSize(slot.retainedBytes)} of WAL${left}.`, 'outrider check'),
  ]
}

/** Confirming comes within seconds. */
const LATE_MS = 30_000

function backlogFindings(
  { outbox, leader }: LineageStatus,
  halting: readonly Halting[],
  { at, relay }: Status,
): StatusFinding[] {
  const { rows = 0, oldest } = outbox?.backlog ?? {}
  const age = oldest ? at.getTime() - oldest.getTime() : 0
  if (rows === 0 || age < LATE_MS) return []
  const running = leader || relay ? ['outrider check', 'outrider ping'] : ['outrider relay']
  const next = halting.length > 0 ? ['outrider incidents list'] : running
  return [
    finding('rows-late', `Not published yet: ${plural(rows, 'row')}, the oldest for ${formatDuration(age)}.`, ...next),
  ]
}

/** What outrider check says beside these is no trouble yet. */
const NOW = new Set([
  'redis-version',
  'redis-cluster',
  'redis-replica',
  'eviction-policy',
  'memory-low',
  'persistence-failing',
])

function redisFindings({ nodes, away, refused }: RedisStatus, config: Config): StatusFinding[] {
  const { mode } = parseRedisUrl(config.redis.url)
  const judged = nodes.flatMap((node) => assessNode(node, { durability: config.durability, mode }))
  const [first] = refused
  const reason = first && classifyRedis(first.error).reason
  const isPermission = reason === 'redis_noperm'
  const remedy = isPermission ? 'docs/redis-acl.md has the ACL line for a person who looks.' : 'outrider check'
  const renamed = 'Rename or delete the key: docs/healing.md#guards has wrong_type.'
  return [
    ...away.map(({ name, error }) =>
      finding(
        'redis-node-away',
        `Redis: ${name}, which has slots of the cluster, does not answer: ${error.message.replace(/\.$/, '')}. The relay waits until it is ` +
          'back, or a replica of it has been promoted.',
        'outrider check',
      ),
    ),
    ...judged
      .filter(({ id, level }) => NOW.has(id) && (level === 'blocker' || id !== 'eviction-policy'))
      .map(({ id, is, why, fix }) =>
        finding(id, `Redis: ${is}; ${why}.`, ...(fix[0]?.text.split('\n') ?? []), 'outrider check'),
      ),
    ...(first
      ? [
          finding(
            'redis-refused',
            `Redis ${isPermission ? 'refused to' : 'did not'} tell of ${first.key}${refused.length > 1 ? ` and ${refused.length - 1} more` : ''}: ${first.error}`,
            reason === 'wrong_type' ? renamed : remedy,
          ),
        ]
      : []),
  ]
}
