import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { GroupState } from '../redis/streams/group-replies.js'
import { type ConsumerEvent, streamOf } from './event.js'

const DURATION = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800]
const AGE = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400]

export type Result = 'done' | 'duplicate' | 'skipped' | 'dead_lettered'

/** State of the waiting stream of a group. */
export interface WaitingState {
  /** The stream's key. */
  stream: string
  /** Events that wait, or whose next attempt runs. */
  count: number
  /** Since the event that fails longest has failed first; 0 where none has failed. */
  oldestSeconds: number
}

/** What is looked at, taken when someone looks. */
export interface Watched {
  group: string
  running(): number
  waiting(): number
  held(): number
  idleSeconds(): number
  oldestRunningSeconds(): number
  streams(): readonly GroupState[]
  backoff(): readonly WaitingState[]
  breakers(): readonly { type: string; open: boolean }[]
}

export type ConsumerMetrics = ReturnType<typeof createConsumerMetrics>

/** Reasons that the library itself gives; a handler's own words would be labels without end. */
const REASONS = new Set([
  ...['malformed', 'unknown_type', 'unknown_version', 'invalid_data', 'expired', 'crashed', 'attempts_exhausted'],
  'nacked',
])

/** A group's metrics in this registry; several consumers may share one. Label values are names that the team chose. */
export function createConsumerMetrics(registry: Registry, group: string, watched: Watched) {
  const counter = (name: string, help: string, labels: string[]) =>
    existing<Counter>(registry, name) ??
    new Counter({ name: PREFIX + name, help, labelNames: ['group', ...labels], registers: [registry] })
  const histogram = (name: string, help: string, labels: string[], buckets: number[]) =>
    existing<Histogram>(registry, name) ??
    new Histogram({ name: PREFIX + name, help, labelNames: ['group', ...labels], buckets, registers: [registry] })

  const processed = counter('processed_total', 'Events that were dealt with, by result', ['stream', 'type', 'result'])
  const duration = histogram(
    'handler_duration_seconds',
    'Time of a transaction, or of work and commit',
    ['type'],
    DURATION,
  )
  const age = histogram('event_age_seconds', 'Time from the event to its commit, by the two clocks', ['stream'], AGE)
  const retries = counter('retries_total', 'Attempts that did not end an event, by reason', ['type', 'reason'])
  const dead = counter('dead_letters_total', 'Events that were dead-lettered, by reason', ['stream', 'type', 'reason'])
  const duplicates = counter('duplicates_total', 'Deliveries of events that were processed before', ['stream'])
  const trimmed = counter('trimmed_total', 'Entries that were trimmed while they were pending: lost to the group', [
    'stream',
  ])
  const unread = counter(
    'unread_trimmed_total',
    'Entries that were trimmed before they were delivered: lost to the group',
    ['stream'],
  )
  const removed = counter(
    'removed_pending_total',
    'Entries that were pending with consumers that were removed from the group, as last seen',
    ['stream'],
  )
  const starved = counter('pool_starved_total', 'Looks that found handlers waiting for a connection while all run', [])
  const unwatch = watch(registry, watched)

  // Labels are looked up once, not for every event.
  const counted = remembered((stream) =>
    remembered((type) => remembered((result) => processed.labels({ group, stream, type, result }))),
  )
  const aged = remembered((stream) => age.labels({ group, stream }))
  const timed = remembered((type) => duration.labels({ group, type }))

  return {
    processed(key: string, event: ConsumerEvent, result: Result): void {
      const stream = streamOf(key)
      counted(stream)(event.type)(result).inc()
      if (result === 'duplicate') duplicates.inc({ group, stream })
      if (result === 'done') aged(stream).observe(Math.max(0, Date.now() - event.time.getTime()) / 1000)
    },
    deadLettered(key: string, event: ConsumerEvent, reason: string): void {
      const known = REASONS.has(reason) ? reason : 'rejected'
      // A type that no one handles may be anything at all.
      const type = known === 'unknown_type' || known === 'malformed' ? 'unknown' : event.type
      processed.inc({ group, stream: streamOf(key), type, result: 'dead_lettered' })
      dead.inc({ group, stream: streamOf(key), type, reason: known })
    },
    ran: (type: string, seconds: number): void => timed(type).observe(seconds),
    retried: (type: string, reason: string): void => retries.inc({ group, type, reason }),
    trimmed: (key: string): void => trimmed.inc({ group, stream: streamOf(key) }),
    unreadTrimmed: (key: string, count: number): void => unread.inc({ group, stream: streamOf(key) }, count),
    removedPending: (key: string, count: number): void => removed.inc({ group, stream: streamOf(key) }, count),
    poolStarved: (): void => starved.inc({ group }),
    close: unwatch,
  }
}

function remembered<M>(make: (label: string) => M): (label: string) => M {
  const made = new Map<string, M>()
  return (label) => {
    const known = made.get(label)
    if (known) return known
    const found = make(label)
    made.set(label, found)
    return found
  }
}

const PREFIX = 'outrider_consumer_'

function existing<M>(registry: Registry, name: string): M | undefined {
  return registry.getSingleMetric(PREFIX + name) as M | undefined
}

/** By registry: the worker that is looked at. */
const watchedBy = new WeakMap<Registry, Set<Watched>>()

function watch(registry: Registry, watched: Watched): () => void {
  const all = watchedBy.get(registry) ?? new Set<Watched>()
  if (!watchedBy.has(registry)) {
    watchedBy.set(registry, all)
    gauges(registry, all)
  }
  all.add(watched)
  return () => all.delete(watched)
}

function gauges(registry: Registry, all: ReadonlySet<Watched>): void {
  const gauge = (name: string, help: string, labels: string[], read: (set: Gauge['set'], watched: Watched) => void) =>
    new Gauge({
      name: PREFIX + name,
      help,
      labelNames: ['group', ...labels],
      registers: [registry],
      collect() {
        this.reset()
        for (const watched of all) read(this.set.bind(this) as Gauge['set'], watched)
      },
    })
  const own = (name: string, help: string, value: (watched: Watched) => number) =>
    gauge(name, help, [], (set, watched) => set({ group: watched.group }, value(watched)))
  const perStream = (name: string, help: string, value: (state: GroupState) => number) =>
    gauge(name, help, ['stream'], (set, watched) => {
      for (const state of watched.streams()) set({ group: watched.group, stream: state.stream }, value(state))
    })
  const failing = (name: string, help: string, value: (state: WaitingState) => number) =>
    gauge(name, help, ['stream'], (set, watched) => {
      for (const state of watched.backoff()) set({ group: watched.group, stream: state.stream }, value(state))
    })
  own('running', 'Handlers that run', (watched) => watched.running())
  own('waiting', 'Events that wait for their next attempt', (watched) => watched.waiting())
  own('held', 'Entries in the hands of this process', (watched) => watched.held())
  own('oldest_running_seconds', 'Time since the oldest handler that runs began', (watched) =>
    watched.oldestRunningSeconds(),
  )
  gauge(
    'breaker_open',
    'Whether the circuit breaker of the handler of this type is open, as 1',
    ['type'],
    (set, watched) => {
      for (const { type, open } of watched.breakers()) set({ group: watched.group, type }, open ? 1 : 0)
    },
  )
  own('idle_seconds', 'Time since this process last took an entry', (watched) => watched.idleSeconds())
  perStream('pending', 'Entries delivered to the group and not acknowledged', ({ pending }) => pending)
  perStream('oldest_pending_seconds', 'Age of the oldest of them', ({ oldestPendingSeconds }) => oldestPendingSeconds)
  failing('set_aside', 'Events in the waiting stream, until their next attempt', ({ count }) => count)
  failing(
    'backoff_oldest_seconds',
    'Since an event that is tried again has first failed',
    ({ oldestSeconds }) => oldestSeconds,
  )
  perStream('lag', 'Entries not delivered to the group yet; see lag_known', ({ lag }) => lag ?? 0)
  perStream('lag_known', 'Whether Redis can tell the lag, as 1', ({ lag }) => (lag === undefined ? 0 : 1))
}
