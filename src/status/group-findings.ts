import { timeOf } from '../event/entry-id.js'
import { answerOf } from './asked.js'
import { finding, type StatusFinding } from './finding.js'
import { ago, count, formatDuration, plural } from './format.js'
import type { GroupTotal } from './groups.js'
import type { Status } from './status.js'

/** Unread for longer than this while workers live, in milliseconds. */
const LAGGING_MS = 300_000
/** Pending for longer, or failing for longer: as the alerts have it. */
const LONG_MS = 900_000

/** What is wrong with consumer groups. Pure. */
export function groupFindings(status: Status): StatusFinding[] {
  const redis = answerOf(status.redis)
  if (!redis) return []
  return [...status.groups.flatMap((group) => assess(group, redis.now)), ...missingGroups(status)]
}

function assess(group: GroupTotal, now: number): StatusFinding[] {
  return [
    lostUnread(group),
    withoutWorker(group, now) ?? lagging(group, now),
    stuck(group, now),
    failing(group, now),
    dead(group),
  ].filter((found) => found !== undefined)
}

const nameOf = ({ group, stream }: GroupTotal): string => `Group ${group} of ${stream}`

const select = ({ group, stream }: GroupTotal): string => `--stream ${stream} --group ${group}`

function lostUnread(group: GroupTotal): StatusFinding | undefined {
  if (group.lostUnread === 0) return undefined
  const is = `${nameOf(group)} lost ${plural(group.lostUnread, 'entry', 'entries')}, removed before it read them.`
  return finding('group-lost-unread', is, 'docs/alerts.md, OutriderConsumerTrimmed, says how to put them back.')
}

function withoutWorker(group: GroupTotal, now: number): StatusFinding | undefined {
  const { workers, lag, oldestUnread, pending, waiting } = group
  if (workers > 0 || (oldestUnread === undefined && pending + waiting === 0)) return undefined
  const unread =
    oldestUnread === undefined
      ? ''
      : `${lag === undefined ? 'entries' : plural(lag, 'entry', 'entries')} unread, the oldest for ${formatDuration(now - oldestUnread)}`
  const what = [unread, pending > 0 ? `${count(pending)} pending` : '', waiting > 0 ? `${count(waiting)} waiting` : '']
  const is = `${nameOf(group)} has had no worker for a minute: ${what.filter((text) => text !== '').join(', ')}.`
  return finding('group-without-worker', is, 'Start its workers; where they run, their log says what is wrong.')
}

function lagging(group: GroupTotal, now: number): StatusFinding | undefined {
  const { oldestUnread, lag, workers } = group
  if (oldestUnread === undefined || now - oldestUnread < LAGGING_MS) return undefined
  const entries = lag === undefined ? 'entries' : plural(lag, 'entry', 'entries')
  const is = `${nameOf(group)} is behind: ${entries} unread, the oldest for ${formatDuration(now - oldestUnread)}, with ${plural(workers, 'worker')}.`
  return finding('group-lagging', is, 'Add workers or raise their concurrency; one that waits says so in its log.')
}

function stuck(group: GroupTotal, now: number): StatusFinding | undefined {
  const { oldestPending: facts } = group
  const held = facts?.oldestPending
  const details = facts?.failures.oldestPending
  if (!facts || !held || !details || details.failed || now - timeOf(held.entry) < LONG_MS) return undefined
  const who = held.consumer === '' ? 'no worker' : `worker ${held.consumer}`
  const is = `${nameOf(group)}: entry ${held.entry} has had no outcome for ${formatDuration(now - timeOf(held.entry))}; ${who} holds it, last heard ${ago(held.idleMs)}.`
  return finding('group-stuck', is, ...(details.event === undefined ? [] : [`outrider find ${details.event}`]))
}

function failing(group: GroupTotal, now: number): StatusFinding | undefined {
  const { failingSince, failing, waiting, nextAttempt, partitions, oldestPending } = group
  if (failingSince === undefined || now - failingSince < LONG_MS) return undefined
  const error = partitions.find(({ failures }) => failures.error !== undefined)?.failures.error
  const next =
    nextAttempt === undefined
      ? ''
      : `; next attempt ${nextAttempt > now ? `in ${formatDuration(nextAttempt - now)}` : 'now'}`
  const is =
    `${nameOf(group)} is failing: ${plural(failing + waiting, 'event')}, the first for ${formatDuration(now - failingSince)}${next}` +
    `${error === undefined ? '' : `: ${error.split('\n')[0]?.slice(0, 200)}`}.`
  const { event, failed } = oldestPending?.failures.oldestPending ?? {}
  return finding(
    'group-failing',
    is,
    ...(waiting > 0 ? [`outrider dead-letters list ${select(group)}`] : []),
    ...(failed && event !== undefined ? [`outrider find ${event}`] : []),
  )
}

function dead(group: GroupTotal): StatusFinding | undefined {
  if (group.dead === 0) return undefined
  const is = `${nameOf(group)} has ${plural(group.dead, 'dead letter')}.`
  return finding('dead-letters', is, `outrider dead-letters list ${select(group)}`)
}

/** Groups that workers have subscribed with, and that Redis does not have. */
function missingGroups({ inboxes, redis }: Status): StatusFinding[] {
  const { streams = [], groups = [] } = answerOf(redis) ?? {}
  const surveyed = new Set(streams.map(({ key }) => key))
  const there = new Set(groups.map(({ stream, name }) => `${stream} ${name}`))
  const missing = new Set<string>()
  for (const inbox of inboxes) {
    if ('problem' in inbox) continue
    for (const { group, stream } of inbox.subscriptions) {
      if (surveyed.has(stream) && !there.has(`${stream} ${group}`)) missing.add(`${group} of ${stream}`)
    }
  }
  if (missing.size === 0) return []
  const [first] = missing
  const more = missing.size > 1 ? ` and ${missing.size - 1} more` : ''
  const is = `Redis has lost group ${first}${more}, which workers have read with.`
  return [
    finding(
      'group-missing',
      is,
      'Start its workers: the group begins at the start, and the inbox skips what was processed.',
    ),
  ]
}
