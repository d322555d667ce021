import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { VERSION } from '../base/version.js'
import { streamOf } from '../event/names.js'
import { createOutboxMetrics } from './outbox-metrics.js'
import { createStreamMetrics } from './stream-metrics.js'

export type Role = 'starting' | 'standby' | 'active' | 'halted' | 'stopping'

/** What is said of the slot. Bytes of WAL. */
interface SlotSizes {
  retainedBytes: number
  lagBytes: number
  /** Undefined where nothing bounds what the slot may hold back. */
  safeBytes: number | undefined
  /** `reserved`, `extended`, `unreserved` or `lost`. */
  walStatus: string | null
}

/** Rows received and not yet appended. */
export interface Inflight {
  events: number
  bytes: number
  /** Since the oldest of them was committed; 0 without one. */
  oldestSeconds: number
}

export type Metrics = ReturnType<typeof createRelayMetrics>

/** A database with more streams than this has the rest counted together: a label must never grow without end. */
const MOST_STREAMS = 200
const OTHER = 'other'

const LATENCY = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
const BATCH = [1, 2, 5, 10, 25, 50, 100, 256, 512, 1024]

/**
 * The relay's metrics, in a registry of their own. They answer: is it working, how far behind, and why not.
 * What happens per event or per batch is a number here and becomes a metric when someone looks.
 */
export function createRelayMetrics() {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })

  const counter = <L extends string = never>(name: string, help: string, labelNames: L[] = []) =>
    new Counter<L>({ name: `outrider_${name}`, help, labelNames, registers })
  const gauge = <L extends string = never>(name: string, help: string, labelNames: L[] = []) =>
    new Gauge<L>({ name: `outrider_${name}`, help, labelNames, registers })
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name: `outrider_${name}`, help, buckets, registers })

  gauge('build_info', 'The version that runs', ['version', 'node']).set({ version: VERSION, node: process.version }, 1)

  const appendedTotal = counter('events_appended_total', 'Events appended to a stream', ['stream'])
  const skippedTotal = counter('events_skipped_total', 'Events that a replay brought again and that were recognised')
  const batchEvents = histogram('append_batch_events', 'Events in one append', BATCH)
  const appendDuration = histogram('append_duration_seconds', 'Time from sending an append to its reply', LATENCY)
  const rejectedTotal = counter('events_rejected_total', 'Rows that could not be published and became incidents', [
    'reason',
  ])
  const lastConfirmed = gauge('last_confirmed_timestamp_seconds', 'When a position was last confirmed to Postgres')
  const retained = gauge('slot_retained_wal_bytes', 'WAL that the slot holds back')
  const lag = gauge('slot_lag_bytes', 'WAL written since the position that was last confirmed')
  const safe = gauge(
    'slot_safe_wal_bytes',
    'WAL that can still be written before the slot may be lost; +Inf where nothing bounds it',
  )
  const setWalStatus = oneHot(
    gauge('slot_wal_status', 'What Postgres says of the WAL that the slot needs, as 1', ['status']),
    'status',
  )
  const decodingSeconds = gauge(
    'decoding_seconds',
    'Time for which Postgres has been decoding without sending anything; 0 while it sends',
  )
  const spilled = gauge('slot_spilled_bytes', 'Bytes that decoding for the slot wrote to disk, as Postgres counts them')
  const openIncidents = gauge('open_incidents', 'Incidents that wait for an operator', ['kind'])
  const repairFound = gauge('repair_events_found', 'Events that the last repair of a gap has found missing')
  const repairPutBack = gauge('repair_events_put_back', 'Events that it has put back')
  const outbox = createOutboxMetrics(registry)
  const streamLabel = bounded(MOST_STREAMS)
  const streams = createStreamMetrics(registry, (key) => streamLabel(streamOf(key)))
  const setDurability = oneHot(
    gauge('durability_level', 'The level that positions are confirmed at, as 1', ['level']),
    'level',
  )
  const roles = roleMetrics(
    registry,
    gauge('role', 'The role of this process, as 1', ['role']),
    gauge('state', 'Its state, as 1', ['state']),
  )
  const forgetSlot = () => {
    for (const size of [retained, lag, safe, decodingSeconds, spilled]) size.remove()
    setWalStatus(undefined)
  }
  /** Who kept what it saw while it was active would tell yesterday's news, and a 0 would be a lie. */
  const forget = () => {
    forgetSlot()
    setDurability(undefined)
    outbox.forget()
    openIncidents.reset()
    streams.forget()
  }
  lastConfirmed.remove()
  forgetSlot()

  return {
    registry,
    received: pulled(registry, 'outrider_events_received_total', 'Events decoded from the write-ahead log'),
    /** One append that was answered: of its events `appended` were new and `skipped` were there before. */
    appended(streamKey: string, appended: number, skipped: number, seconds: number): void {
      if (appended > 0) appendedTotal.inc({ stream: streamLabel(streamOf(streamKey)) }, appended)
      if (skipped > 0) skippedTotal.inc(skipped)
      if (appended + skipped > 0) batchEvents.observe(appended + skipped)
      appendDuration.observe(seconds)
    },
    /** One event that is in the stream already, found without an append. */
    skipped: (): void => skippedTotal.inc(),
    commitToAppend: histogram(
      'commit_to_append_seconds',
      'Time from the commit to its append, by the two clocks',
      LATENCY,
    ),
    rejected: (reason: string): void => rejectedTotal.inc({ reason }),
    /** `timestamp`: seconds since 1970. */
    confirmed: (timestamp: number): void => lastConfirmed.set(timestamp),
    setDurability,
    durabilityWait: histogram('durability_wait_seconds', 'Time that the durability barrier took', LATENCY),
    /** Nothing is known any more of slot, durability and incidents. */
    forget,
    /** Undefined: there is none. */
    slot(sizes: SlotSizes | undefined): void {
      if (sizes === undefined) {
        forgetSlot()
        return
      }
      setWalStatus(sizes.walStatus ?? undefined)
      retained.set(sizes.retainedBytes)
      lag.set(sizes.lagBytes)
      safe.set(sizes.safeBytes ?? Number.POSITIVE_INFINITY)
    },
    decoding(seconds: number, spilledBytes: number): void {
      decodingSeconds.set(seconds)
      spilled.set(spilledBytes)
    },
    /** So many entries were removed from a stream. */
    trimmed: streams.trimmed,
    /** So many of them a group had not finished. */
    cut: streams.cut,
    /** So many dead letters of a group were removed for their age. */
    deadLettersTrimmed: streams.deadLettersTrimmed,
    /** How a stream is, as it was seen last. */
    setStream: streams.set,
    /** It is gone. */
    removeStream: streams.remove,
    repairFound: (events: number): void => repairFound.set(events),
    outbox,
    repairPutBack: (events: number): void => repairPutBack.set(events),
    errors: counter('errors_total', 'Errors by where they came from and what they were', ['target', 'code']),
    sessions: counter('sessions_total', 'Sessions begun as the active relay'),
    epochs: counter('epochs_total', 'Connections to Redis after one was lost'),
    /** How many of each kind wait for someone. */
    setOpenIncidents(counts: ReadonlyMap<string, number>): void {
      openIncidents.reset()
      for (const kind of ['gap', 'foreign', 'rejected', 'operator']) openIncidents.set({ kind }, counts.get(kind) ?? 0)
    },
    /** The gauges ask `read` when someone looks. */
    watchInflight(read: () => Inflight): void {
      asked(registry, 'outrider_inflight_events', 'Events received and not yet appended', () => read().events)
      asked(registry, 'outrider_inflight_bytes', 'Bytes of events held in memory', () => read().bytes)
      asked(
        registry,
        'outrider_inflight_oldest_seconds',
        'Time since the commit of the oldest of them, by the two clocks',
        () => read().oldestSeconds,
      )
    },
    setRole(role: Role, state: string, reason?: string): void {
      if (role === 'starting' || role === 'standby') forget()
      roles(role, state, reason)
    },
  }
}

/** Tells role, state and, while there is a reason why nothing flows, how long that has lasted. */
function roleMetrics(registry: Registry, role: Gauge<'role'>, state: Gauge<'state'>) {
  const seconds = new Map<string, number>()
  let blockedBy: string | undefined
  let since = 0
  const settle = () => {
    const now = performance.now()
    if (blockedBy !== undefined) seconds.set(blockedBy, (seconds.get(blockedBy) ?? 0) + (now - since) / 1000)
    since = now
  }
  new Counter({
    name: 'outrider_blocked_seconds_total',
    help: 'Time in which nothing could flow, by reason',
    labelNames: ['reason'],
    registers: [registry],
    collect() {
      settle()
      this.reset()
      for (const [reason, total] of seconds) this.inc({ reason }, total)
    },
  })
  const setRole = oneHot(role, 'role')
  const setState = oneHot(state, 'state')
  return (newRole: Role, newState: string, reason?: string): void => {
    setRole(newRole)
    setState(newState)
    settle()
    blockedBy = reason
  }
}

/** A counter for the hot path: a plain addition, read when someone looks. */
function pulled(registry: Registry, name: string, help: string): { inc(by?: number): void } {
  let total = 0
  new Counter({
    name,
    help,
    registers: [registry],
    collect() {
      this.reset()
      this.inc(total)
    },
  })
  return {
    inc(by = 1) {
      total += by
    },
  }
}

function asked(registry: Registry, name: string, help: string, read: () => number): void {
  registry.removeSingleMetric(name)
  new Gauge({
    name,
    help,
    registers: [registry],
    collect() {
      this.set(read())
    },
  })
}

/** Sets one label value to 1 and the one before it to 0; undefined: none is known. */
function oneHot<L extends string>(gauge: Gauge<L>, label: L): (value: string | undefined) => void {
  let current: string | undefined
  return (value) => {
    if (value === current) return
    if (current !== undefined) gauge.set({ [label]: current } as Record<L, string>, 0)
    if (value !== undefined) gauge.set({ [label]: value } as Record<L, string>, 1)
    current = value
  }
}

function bounded(most: number): (value: string) => string {
  const seen = new Set<string>()
  return (value) => {
    if (seen.has(value)) return value
    if (seen.size >= most) return OTHER
    seen.add(value)
    return value
  }
}
