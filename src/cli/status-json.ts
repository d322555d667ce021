import type { Config } from '../config/schema.js'
import { formatLsn } from '../postgres/client/lsn.js'
import { answerOf } from '../status/asked.js'
import type { StatusFinding } from '../status/finding.js'
import type { GroupTotal } from '../status/groups.js'
import type { RedisStatus } from '../status/redis.js'
import type { Status } from '../status/status.js'

/** Streams and groups that are listed one by one. */
const MAX_LISTED = 1_000

const at = (time: number | undefined): string | null => (time === undefined ? null : new Date(time).toISOString())

/** A status for programs: what is null is not known, or not there. */
export function statusJson(status: Status, findings: readonly StatusFinding[], config: Config): object {
  const { postgres, redis, relay, inboxes, streams, groups } = status
  const found = answerOf(postgres)
  const lineage = found?.lineage
  return {
    at: status.at.toISOString(),
    healthy: findings.length === 0,
    findings,
    postgres: 'failure' in postgres ? { unreachable: postgres.failure.message } : { version: found?.version },
    lineage: lineage ? { id: lineage.lineage, source: lineage.source, outboxTable: lineage.outboxTable } : null,
    relay: {
      leads: lineage ? lineage.leader !== undefined : null,
      leader: lineage?.leader ?? null,
      session: lineage?.session ?? null,
      standbys: lineage?.standbys ?? null,
      says: relay ?? null,
      aliveInRedis: answerOf(redis)?.aliveSession ?? null,
    },
    slot: slotJson(status, config),
    outbox: lineage?.outbox ?? null,
    checkpoint: lineage?.checkpoint?.toISOString() ?? null,
    confirmedAt: lineage?.streams.confirmedAt?.toISOString() ?? null,
    incidents: lineage?.incidents ?? null,
    redis: 'failure' in redis ? { unreachable: redis.failure.message } : redisJson(redis.value),
    streams: streams.slice(0, MAX_LISTED).map(({ stream, partitions, length, bytes, oldest, newest, floor }) => ({
      stream,
      partitions: partitions.map(({ key, length, bytes, added, first, last }) => ({
        key,
        length,
        bytes,
        added,
        first,
        last,
      })),
      length,
      bytes: bytes ?? null,
      perSecond: status.rates.get(stream) ?? null,
      oldest: at(oldest),
      newest: at(newest),
      neededFrom: floor ?? null,
    })),
    moreStreams:
      Math.max(0, streams.length - MAX_LISTED) +
      Math.max(0, (lineage?.streams.total ?? 0) - (lineage?.streams.heads.length ?? 0)),
    groups: groups.slice(0, MAX_LISTED).map(groupJson),
    moreGroups: Math.max(0, groups.length - MAX_LISTED),
    inboxes: inboxes.map((inbox) =>
      'subscriptions' in inbox ? { ...inbox, subscriptions: inbox.subscriptions.length } : inbox,
    ),
  }
}

function slotJson({ postgres }: Status, config: Config): object | null {
  const slot = answerOf(postgres)?.lineage?.slot
  if (!slot) return null
  const { serverLsn, confirmedFlush, ...rest } = slot
  return {
    name: config.slot,
    ...rest,
    confirmedFlush: confirmedFlush === undefined ? null : formatLsn(confirmedFlush),
    serverLsn: formatLsn(serverLsn),
  }
}

function redisJson({ product, nodes, away, refused, missing }: RedisStatus): object {
  const facts = ['used_memory', 'maxmemory', 'maxmemory_policy', 'aof_enabled', 'role', 'connected_slaves']
  return {
    product,
    nodes: nodes.map(({ name, info }) => ({
      name,
      ...Object.fromEntries(facts.map((fact) => [fact, info[fact] ?? null])),
    })),
    away: away.map(({ name, error }) => ({ name, error: error.message })),
    refused,
    missing,
  }
}

const groupJson = (group: GroupTotal): object => ({
  group: group.group,
  stream: group.stream,
  lag: group.lag ?? null,
  oldestUnread: at(group.oldestUnread),
  pending: group.pending,
  oldestPending: group.oldestPending?.oldestPending ?? null,
  failing: group.failing,
  failingSince: at(group.failingSince),
  nextAttempt: at(group.nextAttempt),
  waiting: group.waiting,
  deadLetters: group.dead,
  workers: group.workers,
  lostUnread: group.lostUnread,
})
