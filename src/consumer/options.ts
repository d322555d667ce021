import { hostname } from 'node:os'
import type { Cluster, Redis } from 'ioredis'
import type { Registry } from 'prom-client'
import type { EventDefinition } from '../event/define.js'
import { GROUP_NAME } from '../event/names.js'
import type { Backoff } from './delivery/retry-policy.js'
import { countOf, type Duration, durationOf } from './duration.js'
import type { BackoffOption, Wrap } from './handler.js'
import { backoffOf } from './handler-registry.js'
import type { DatabaseOption, TransactionOf } from './inbox/database-adapter.js'

/** How to reach Redis. A URL is one of `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`. */
export interface RedisOptions {
  /** The type allows `undefined`, because `process.env.REDIS_URL` may be missing; `createConsumer` then throws a TypeError. */
  url: string | undefined
  username?: string | undefined
  password?: string | undefined
  /** A file that holds the password. It is read for each connection, so that a changed password is used. */
  passwordFile?: string | undefined
  /** Paths of PEM files. */
  tls?: { ca?: string; cert?: string; key?: string; serverName?: string } | undefined
  /** Default 5s. */
  connectTimeout?: Duration | undefined
}

/** A logger such as pino's: each method takes an object and a message. */
export interface ConsumerLogger {
  debug(object: object, message: string): void
  info(object: object, message: string): void
  warn(object: object, message: string): void
  error(object: object, message: string): void
}

export interface ConsumerOptions<Db extends DatabaseOption = DatabaseOption> {
  /**
   * A URL, options, or an ioredis client. The consumer does not use that client itself: it opens connections of its own
   * with the same settings. The type allows `undefined`, because `process.env.REDIS_URL` may be missing; `createConsumer`
   * then throws a TypeError.
   */
  redis: string | RedisOptions | Redis | Cluster | undefined
  /** The database in which effects are committed: a `pg` Pool, or an adapter for another library. */
  db: Db
  /** Workers of one group share its events; each group processes each event once. Letters, digits, `. _ - :`, at most 100. */
  group: string
  /**
   * The most handler calls at once. Default: 10, or the size of the pool, or `prefetch`, if that is smaller. A value above the
   * size of the pool, or above `prefetch`, is refused; an ordered consumer needs one connection more.
   */
  concurrency?: number | undefined
  /**
   * The most new entries that this worker holds, running ones included. Events in backoff and events taken over from
   * other workers are held in addition. Default: about one second of work of each handler.
   */
  prefetch?: number | undefined
  /**
   * The most failed attempts of an event, 1 to 1,000. The event is then dead-lettered, even if `retryFor` is not over.
   * Default: no limit.
   */
  maxAttempts?: number | undefined
  /**
   * How long an event is retried, from its first failed attempt, before it is dead-lettered. Default 24h; 1h if
   * `ordered`, because later events of the subject wait.
   */
  retryFor?: Duration | undefined
  /**
   * The pauses between attempts: random, from half of a ceiling to the ceiling, which doubles from `min` (1s) to `max`
   * (1h). Or a function that gets the number of failed attempts.
   */
  backoff?: BackoffOption | undefined
  /** If a worker sends no heartbeat for this time, other workers take over its events and leases. 100ms to 1h. Default 30s. */
  claimAfter?: Duration | undefined
  /**
   * The events of one subject run one after another, across all workers. All workers of a group must use the same value.
   * Default false.
   */
  ordered?: boolean | undefined
  /** How many entries of one stream or partition an ordered worker holds, at most. Default 1,000. */
  maxPending?: number | undefined
  /**
   * Where a new group begins to read: at the beginning of its streams, after their last entry, or at a time. Default
   * `beginning`.
   */
  startFrom?: 'beginning' | 'now' | Date | undefined
  /**
   * Types, or definitions, whose events are acknowledged without a handler. All versions of a type are skipped. A `*` at the end
   * stands for any end: `order.*`, or `*` for all types without a handler.
   */
  skip?: readonly (string | EventDefinition)[] | undefined
  /**
   * If the version of an event is higher than every handled version: how long it waits for a newer worker before it is
   * dead-lettered. Default 15m.
   */
  versionGrace?: Duration | undefined
  /**
   * How long the inbox remembers an event. An older event that it does not name is dead-lettered as `expired`,
   * also if the group is new.
   * Default 7d.
   */
  inboxWindow?: Duration | undefined
  /** How long `stop`, and `run` after its signal, wait for running handlers. Default 30s. */
  stopTimeout?: Duration | undefined
  /**
   * The name of this consumer in Redis. Two running workers of a group must not have the same name. Default: host name,
   * process id and a random text.
   */
  name?: string | undefined
  /** A function that is called around every call of a handler: see `Wrap`. */
  wrap?: Wrap<TransactionOf<Db>> | undefined
  /** Default: JSON lines on standard error, from level info. */
  logger?: ConsumerLogger | undefined
  /**
   * A registry of prom-client for the metrics, whose names begin with `outrider_consumer_`. Default: a new one,
   * `consumer.registry`.
   */
  registry?: Registry | undefined
}

/** The options with their defaults; durations in milliseconds. */
export interface ConsumerSettings {
  group: string
  name: string
  concurrency: number
  prefetch: number | undefined
  maxAttempts: number
  retryFor: number
  backoff: Backoff
  claimAfter: number
  ordered: boolean
  maxPending: number
  startFrom: 'beginning' | 'now' | Date
  skip: ReadonlySet<string>
  versionGrace: number
  inboxWindow: number
  stopTimeout: number
}

const KNOWN = new Set([
  ...[
    'redis',
    'db',
    'group',
    'concurrency',
    'prefetch',
    'maxAttempts',
    'retryFor',
    'backoff',
    'claimAfter',
    'ordered',
    'maxPending',
  ],
  ...['startFrom', 'skip', 'versionGrace', 'inboxWindow', 'stopTimeout', 'name', 'wrap', 'logger', 'registry'],
])

const DEFAULT_CONCURRENCY = 10
const LEVELS = ['debug', 'info', 'warn', 'error'] as const

/** Throws a TypeError that names the option, what was expected and what was found. */
export function settingsOf(options: ConsumerOptions, maxTransactions: number | undefined): ConsumerSettings {
  for (const key of Object.keys(options)) {
    if (!KNOWN.has(key)) throw new TypeError(`Expected one of the options ${[...KNOWN].join(', ')}, found ${key}.`)
  }
  const { group, name, startFrom = 'beginning', skip = [] } = options
  if (typeof group !== 'string' || !GROUP_NAME.test(group)) {
    throw new TypeError(
      'Expected group as a letter or digit, then letters, digits, dots, underscores, hyphens or colons, 100 at most, found ' +
        `${JSON.stringify(group)}.`,
    )
  }
  if (name !== undefined && !/^[!-~]{1,200}$/.test(name)) {
    throw new TypeError(
      `Expected name as 1 to 200 printable ASCII characters without spaces, found ${JSON.stringify(name)}.`,
    )
  }
  checkKinds(options)
  const duration = (
    key: 'retryFor' | 'claimAfter' | 'versionGrace' | 'inboxWindow' | 'stopTimeout',
    missing: number,
    least: number,
    most?: number,
  ) => (options[key] === undefined ? missing : durationOf(key, options[key], least, most))
  const count = (key: 'prefetch' | 'maxAttempts' | 'maxPending', most: number) =>
    options[key] === undefined ? undefined : countOf(key, options[key], 1, most)
  const prefetch = count('prefetch', 10_000)
  return {
    group,
    name: name ?? `${hostname().replace(/[^!-~]+/g, '-')}-${process.pid}-${Math.random().toString(36).slice(2, 8)}`,
    concurrency: concurrencyOf(options.concurrency, maxTransactions, prefetch, options.ordered === true),
    prefetch,
    maxAttempts: count('maxAttempts', 1_000) ?? Number.POSITIVE_INFINITY,
    retryFor: duration('retryFor', options.ordered === true ? 3_600_000 : 86_400_000, 0),
    backoff: backoffOf('backoff', options.backoff),
    // What is released counts as idle for an hour: see MAX_IDLE_MS.
    claimAfter: duration('claimAfter', 30_000, 100, 3_600_000),
    ordered: options.ordered === true,
    maxPending: count('maxPending', 1_000_000) ?? 1_000,
    startFrom,
    skip: new Set(skip.map((type) => (typeof type === 'string' ? type : type.type))),
    versionGrace: duration('versionGrace', 900_000, 0),
    inboxWindow: duration('inboxWindow', 7 * 86_400_000, 1_000),
    stopTimeout: duration('stopTimeout', 30_000, 0),
  }
}

/**
 * Each running handler has a transaction of its own: beyond the pool's size they would only wait for each other. An ordered
 * worker needs one connection more, or long handlers would keep it from renewing its leases.
 */
function concurrencyOf(
  wanted: number | undefined,
  maxTransactions: number | undefined,
  prefetch: number | undefined,
  ordered: boolean,
): number {
  const most = (maxTransactions ?? Number.POSITIVE_INFINITY) - (ordered ? 1 : 0)
  const concurrency = wanted === undefined ? Math.max(1, Math.min(DEFAULT_CONCURRENCY, most, prefetch ?? most)) : wanted
  countOf('concurrency', concurrency, 1, 10_000)
  if (prefetch !== undefined && prefetch < concurrency) {
    throw new TypeError(
      `Expected prefetch at or above concurrency (${concurrency}), found ${prefetch}: a worker cannot run more than it holds.`,
    )
  }
  if (concurrency <= most) return concurrency
  throw new TypeError(
    `Expected concurrency ${ordered ? 'below' : 'at or below'} the ${maxTransactions} connections of the pool` +
      `${ordered ? ', of which an ordered consumer needs one for its leases' : ''}, found ${concurrency}. ` +
      `Give the pool more (new Pool({ max: ${concurrency + (ordered ? 1 : 0)} })), or lower concurrency.`,
  )
}

/** Those that are neither numbers nor texts nor durations. */
function checkKinds(options: ConsumerOptions): void {
  const expect = (key: keyof ConsumerOptions, expected: string, fits: (value: unknown) => boolean) => {
    const value: unknown = options[key]
    if (value === undefined || fits(value)) return
    const found = typeof value === 'object' ? 'something else' : (JSON.stringify(value) ?? `a ${typeof value}`)
    throw new TypeError(`Expected ${key} as ${expected}, found ${found}.`)
  }
  const isType = (type: unknown) => typeof ((type as EventDefinition | null)?.type ?? type) === 'string'
  const isPattern = (type: unknown) => typeof type !== 'string' || !type.slice(0, -1).includes('*')
  const isDate = (value: unknown) => value instanceof Date && value.getTime() > 0
  const isLogger = (log: unknown) => LEVELS.every((level) => typeof (log as ConsumerLogger)?.[level] === 'function')
  expect('startFrom', "'beginning', 'now' or a valid Date", (at) => at === 'beginning' || at === 'now' || isDate(at))
  expect('ordered', 'true or false', (ordered) => typeof ordered === 'boolean')
  expect('skip', 'an array of types or definitions', (skip) => Array.isArray(skip) && skip.every(isType))
  expect('skip', 'types with a * at their end only', (skip) => (skip as unknown[]).every(isPattern))
  expect('wrap', 'a function', (wrap) => typeof wrap === 'function')
  expect('logger', `an object with the methods ${LEVELS.join(', ')}`, isLogger)
}
