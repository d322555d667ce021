import { parseRedisUrl } from '../config/redis-url.js'
import type { Config } from '../config/schema.js'
import type { Halting } from '../postgres/state/halting.js'
import { answerOf } from '../status/asked.js'
import type { StatusFinding } from '../status/finding.js'
import { haltingOf } from '../status/findings.js'
import { ago, count, formatDuration, formatSize, plural } from '../status/format.js'
import type { GroupTotal } from '../status/groups.js'
import type { LineageStatus } from '../status/postgres.js'
import type { RedisStatus } from '../status/redis.js'
import { describeRepair } from '../status/repair-text.js'
import type { Status } from '../status/status.js'
import { paint, printable } from './output.js'
import { outputWidth, table, wrap } from './table.js'

/** One screen: how everything stands, then a line for each problem. */
export function statusText(status: Status, findings: readonly StatusFinding[], config: Config): string {
  return [
    ...lineageLines(status, config),
    line('redis', 'failure' in status.redis ? 'not reached' : redisText(status.redis.value, config)),
    ...streamTable(status),
    ...groupTable(status),
    '',
    ...findingLines(findings),
  ].join('\n')
}

const NAME = 11

const line = (name: string, text: string): string =>
  `${name.padEnd(NAME)}${wrap(printable(text), outputWidth() - NAME).replaceAll('\n', `\n${' '.repeat(NAME)}`)}`

function lineageLines(status: Status, config: Config): string[] {
  if ('failure' in status.postgres) return [line('postgres', 'not reached')]
  const { lineage, standby, version } = status.postgres.value
  if (!lineage) return [line('postgres', standby ? 'a standby' : `no lineage of slot ${config.slot}`)]
  const halting = haltingOf(lineage, version, config)
  return [
    line('relay', relayText(lineage, halting, status)),
    line('slot', slotText(lineage, config)),
    line('outbox', outboxText(lineage, status)),
    line('published', publishedText(lineage, status, config)),
    line('incidents', incidentText(lineage, halting)),
    ...halting.flatMap(({ incident, repair }) => {
      const progress = describeRepair(repair)
      return progress === undefined ? [] : [line('repair', `incident ${incident.id}: ${progress}`)]
    }),
  ]
}

function relayText(
  { leader, session, standbys }: LineageStatus,
  halting: readonly Halting[],
  { at, relay }: Status,
): string {
  const others = standbys > 0 ? `; ${plural(standbys, 'standby', 'standbys')}` : ''
  if (!leader) {
    const halted = halting.some(({ byItself }) => !byItself)
    const last = session
      ? `; the last began ${ago(at.getTime() - session.startedAt.getTime())} on ${session.hostname}`
      : ''
    return `${halted ? 'halted by an incident, or not running' : 'none leads'}${last}${others}`
  }
  const where = session
    ? `${session.hostname}, pid ${session.pid}, version ${session.version}`
    : `Postgres pid ${leader.pid}`
  const since = session ? `, for ${formatDuration(at.getTime() - session.startedAt.getTime())}` : ''
  return `${relay ? `${relay.role}, ${relay.state}${relay.reason ? ` (${relay.reason})` : ''}` : 'active'} on ${where}${since}${others}`
}

function slotText({ slot, silentStandbys }: LineageStatus, config: Config): string {
  if (!slot) return `${config.slot}, missing`
  const left =
    slot.safeBytes === undefined ? 'no limit' : `${formatSize(Math.max(0, slot.safeBytes))} before it is lost`
  const doing = slot.active ? walsenderText(slot, silentStandbys.length) : 'not read'
  return `${config.slot}: ${doing}; ${formatSize(slot.lagBytes)} behind, keeps ${formatSize(slot.retainedBytes)} of WAL, ${left}`
}

function walsenderText({ activity }: NonNullable<LineageStatus['slot']>, silent: number): string {
  const { waitEventType, waitEvent } = activity ?? {}
  if (waitEvent === 'WaitForStandbyConfirmation') return silent > 0 ? 'waits for standbys' : 'read'
  if (waitEvent === 'WalSenderWriteData' || waitEvent === 'ClientWrite') return 'waits for the relay'
  if (!activity || waitEventType === 'Activity' || waitEventType === 'Client') return 'read'
  return 'decoding'
}

function outboxText({ outbox, outboxTable }: LineageStatus, { at }: Status): string {
  if (!outbox) return `${outboxTable}, whose rows are not counted`
  const { backlog, bytes, estimatedRows } = outbox
  const size = `${formatSize(bytes)}${estimatedRows > 0 ? `, about ${plural(estimatedRows, 'row')}` : ''}`
  if (!backlog) return `${size}; rows that are not published: too many to count in time, or hidden from this role`
  if (backlog.rows === 0) return `every row is published; ${size}`
  const oldest = backlog.oldest ? `, the oldest for ${formatDuration(at.getTime() - backlog.oldest.getTime())}` : ''
  return `${plural(backlog.rows, 'row')} not yet confirmed${oldest}; ${size}`
}

function publishedText({ streams, checkpoint }: LineageStatus, { at, relay }: Status, config: Config): string {
  const since = (time: Date | undefined) => (time ? ago(at.getTime() - time.getTime()) : 'never')
  const level = relay?.durability ? `durability ${relay.durability}` : `durability ${config.durability} configured`
  return `last confirmed ${since(streams.confirmedAt)}; ${level}; checkpoint ${since(checkpoint)}`
}

function incidentText({ incidents: { counts } }: LineageStatus, halting: readonly Halting[]): string {
  const repairing = halting.filter(({ byItself, repair }) => byItself && repair.is !== 'settling').length
  const settling = halting.filter(({ repair }) => repair.is === 'settling').length
  const open = Object.entries(counts)
    .map(([kind, number]): [string, number] => [kind, kind === 'gap' ? number - repairing : number])
    .filter(([, number]) => number > 0)
    .map(([kind, number]) => `${count(number)} ${kind}`)
  return [
    open.length === 0 ? 'none open' : `open: ${open.join(', ')}`,
    ...(repairing > 0 ? [`being repaired: ${plural(repairing, 'gap')}`] : []),
    ...(settling > 0 ? [`repaired, waiting for transactions: ${plural(settling, 'gap')}`] : []),
  ].join('; ')
}

function redisText({ product, nodes, away }: RedisStatus, config: Config): string {
  const { nodes: addresses } = parseRedisUrl(config.redis.url)
  const memory = nodes.map(({ info }) => {
    const [used, most] = [Number(info.used_memory), Number(info.maxmemory)]
    if (Number.isNaN(used)) return 'memory unknown'
    return `${formatSize(used)} of ${most > 0 ? formatSize(most) : 'no limit'}`
  })
  const { info = {} } = nodes[0] ?? {}
  const kept = [info.aof_enabled === '1' ? 'AOF' : 'no AOF', info.maxmemory_policy].filter((text) => text !== undefined)
  const silent = away.map(({ name }) => `no answer from ${name}`)
  const replicas = info.connected_slaves === undefined ? [] : [plural(Number(info.connected_slaves), 'replica')]
  const { host, port } = addresses[0]
  return [
    `${product} at ${host}:${port}: ${memory.join(' + ')}`,
    ...(info.role ? kept : []),
    ...replicas,
    ...silent,
  ].join(', ')
}

/** One screen. */
const MAX_ROWS = 10

function streamTable({ streams, rates, redis }: Status): string[] {
  const { now = 0 } = answerOf(redis) ?? {}
  if (streams.length === 0) return 'value' in redis ? [line('streams', 'none yet')] : []
  const rows = streams.slice(0, MAX_ROWS).map(({ stream, partitions, length, bytes, oldest, newest, floor }) => {
    const rate = rates.get(stream)
    return [
      printable(partitions.length > 1 ? `${stream} ×${partitions.length}` : stream),
      count(length),
      bytes === undefined ? '?' : formatSize(bytes),
      rate === undefined ? '' : `${rate < 10 ? rate.toFixed(1) : count(rate)}/s`,
      oldest === undefined ? '' : formatDuration(now - oldest),
      newest === undefined ? '' : formatDuration(now - newest),
      floor === undefined ? '' : printable(`${floor.group} (${floor.because})`),
    ]
  })
  const head = ['stream', 'entries', 'memory', 'rate', 'oldest', 'newest', 'needed by']
  return ['', table([head, ...rows], { shrink: [0, 6], right: [1, 2, 3, 4, 5] }), ...more(streams.length, 'stream')]
}

const more = (total: number, what: string): string[] =>
  total > MAX_ROWS ? [`… and ${plural(total - MAX_ROWS, `more ${what}`)}; --${what} shows one`] : []

/** Those in trouble first, as far as they can be told by numbers. */
const weightOf = ({ dead, lostUnread, failing, waiting, lag }: GroupTotal): number =>
  (dead + lostUnread + failing + waiting > 0 ? 1e15 : 0) + (lag ?? 0)

function groupTable({ groups, redis }: Status): string[] {
  const { now = 0 } = answerOf(redis) ?? {}
  if (groups.length === 0) return []
  const rows = [...groups]
    .sort((one, other) => weightOf(other) - weightOf(one))
    .slice(0, MAX_ROWS)
    .map(({ group, stream, lag, pending, oldestPending, failing, waiting, dead, workers, nextAttempt }) => {
      const entry = oldestPending?.oldestPending?.entry
      const next =
        nextAttempt === undefined ? '' : ` (${nextAttempt > now ? formatDuration(nextAttempt - now) : 'now'})`
      return [
        printable(group),
        printable(stream),
        lag === undefined ? '?' : count(lag),
        count(pending) + (entry === undefined ? '' : ` (${formatDuration(now - Number.parseInt(entry, 10))})`),
        count(failing) + (failing > 0 ? next : ''),
        count(waiting) + (failing === 0 && waiting > 0 ? next : ''),
        count(dead),
        count(workers),
      ]
    })
  const head = ['group', 'stream', 'lag', 'pending', 'failing', 'waiting', 'dead', 'workers']
  return ['', table([head, ...rows], { shrink: [1, 0], right: [2, 3, 4, 5, 6, 7] }), ...more(groups.length, 'group')]
}

/** Findings on one screen. */
const MAX_FINDINGS = 12

function findingLines(findings: readonly StatusFinding[]): string[] {
  if (findings.length === 0) return [`${paint('green', '✓')} No problem found.`]
  const shown = findings
    .slice(0, MAX_FINDINGS)
    .flatMap(({ is, next }) => [
      `${paint('red', '✗')} ${wrap(printable(is), outputWidth() - 2, '  ')}`,
      ...next.flatMap((step) => step.split('\n')).map((step) => `    ${paint('cyan', printable(step))}`),
    ])
  const left = findings.length - MAX_FINDINGS
  return left > 0 ? [...shown, `… and ${plural(left, 'more problem')}; --json has all of them`] : shown
}
