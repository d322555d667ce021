import { z } from 'zod'
import type { Secret } from '../base/secret.js'
import { parseDuration } from '../base/units.js'
import { GROUP_NAME, STREAM_NAME } from '../event/names.js'
import { parsePostgresUrl } from './postgres-url.js'
import { parseRedisUrl } from './redis-url.js'
import { duration, durationOrZero, integer, matching, oneOf, setting, size, text, url } from './setting.js'
import type { TlsConfig } from './tls.js'

export type { Secret } from '../base/secret.js'
export type { TlsConfig } from './tls.js'

export interface PostgresConfig {
  /** From `loadConfig` it holds no password; that stands in `password`. */
  url: string
  password?: Secret
  tls?: TlsConfig
  connectTimeout: number
}

export interface RedisConfig {
  /** From `loadConfig` it holds no password; that stands in `password`. */
  url: string
  username?: string
  password?: Secret
  /** For the sentinels themselves, where they want credentials of their own. */
  sentinelUsername?: string
  sentinelPassword?: Secret
  tls?: TlsConfig
  connectTimeout: number
}

export type Durability = 'auto' | 'memory' | 'fsync' | 'replicated' | 'fsync+replicated'

export interface StreamConfig {
  partitions?: number
  /** 0: entries do not go for their age. */
  retention?: number
  maxFinished?: number
  maxLength?: number
  /** 0: at no percentage. */
  trimAtMemory?: number
  deadLetterRetention?: number
  groups?: string[]
}

/** Where the attributes of an event stand in a table. */
export interface OutboxMapping {
  /** `schema.table` */
  table: string
  /** A template over the columns: `{stream}`, or `orders.{aggregatetype}`. */
  stream: string
  columns: {
    id: string
    type: string
    subject?: string
    data?: string
    schemaVersion?: string
    correlationId?: string
    causationId?: string
    headers?: string
    time?: string
  }
}

/** Everything Outrider can be told. Durations in milliseconds, sizes in bytes. */
export interface Config {
  postgres: PostgresConfig
  redis: RedisConfig
  slot: string
  publication: string
  /** Undefined: what `setup` stored, else `/<database>`. */
  source: string | undefined
  durability: Durability
  /** How old rows of Outrider's own table may get before they are emptied; 0: they stay. */
  retention: number
  /** Bytes of that table, with its indexes, beyond which younger rows go, too. */
  retentionMaxSize: number
  /** Was one of the two set, rather than left to its default? An installation from before retention is not emptied unasked. */
  isRetentionSet: boolean
  maxEventBytes: number
  onGap: 'repair' | 'halt'
  /** Events that a repair puts back without being asked. */
  repairMaxEvents: number
  http: { port: number; host: string }
  logLevel: string
  streams: Record<string, StreamConfig>
  outbox: OutboxMapping
  limits: { batchEvents: number; batchBytes: number; inflightBytes: number }
  /** How long SIGTERM waits for what is in flight. */
  drainTimeout: number
}

/** The streams that are to be partitioned, with their number of partitions. */
export const partitionsOf = (streams: Config['streams']): Map<string, number> =>
  new Map(Object.entries(streams).flatMap(([name, { partitions }]) => (partitions ? [[name, partitions]] : [])))

/** Outrider's own table. */
export const OWN_OUTBOX: OutboxMapping = {
  table: 'outrider.outbox',
  stream: '{stream}',
  columns: {
    id: 'id',
    type: 'type',
    subject: 'subject',
    data: 'data',
    schemaVersion: 'schema_version',
    correlationId: 'correlation_id',
    causationId: 'causation_id',
    headers: 'headers',
    time: 'created_at',
  },
}

const file = () => text('the path of a file')
const column = () => text('the name of a column')

const DEFAULT_RETENTION = 72 * 3_600_000
const MAX_RETENTION = 3_650 * 24 * 3_600_000

const retention = () =>
  setting(
    'a duration such as 72h or 7d, at most 3650d; default, which is 72h; or 0, to keep everything',
    (value) => {
      const ms = value === 'default' ? DEFAULT_RETENTION : parseDuration(value)
      return ms !== undefined && ms <= MAX_RETENTION ? ms : undefined
    },
    { type: ['number', 'string'] },
  )

const tls = z.strictObject({
  ca: file().optional(),
  cert: file().optional(),
  key: file().optional(),
  serverName: text('the name that the certificate bears').optional(),
})

const stream = z.strictObject({
  partitions: integer(1, 1024, 'a number of partitions').optional(),
  retention: durationOrZero('3650d').optional(),
  maxFinished: integer(1, 1_000_000_000_000, 'a number of entries').optional(),
  maxLength: integer(1, 1_000_000_000_000, 'a number of entries').optional(),
  trimAtMemory: integer(0, 99, 'a percentage of maxmemory').optional(),
  deadLetterRetention: duration('3650d').optional(),
  groups: setting(
    'a list of names of consumer groups',
    (value) =>
      Array.isArray(value) && value.every((name): name is string => typeof name === 'string' && GROUP_NAME.test(name))
        ? value
        : undefined,
    { type: 'array', items: { type: 'string' } },
  ).optional(),
})

const outbox = z.strictObject({
  table: matching(/^[^.\s"]{1,63}\.[^.\s"]{1,63}$/, 'a table with its schema: schema.table'),
  stream: setting(
    'a template for the name of the stream, such as {stream} or orders.{aggregatetype}',
    (value) => (typeof value === 'string' && STREAM_NAME.test(value.replace(/\{[^{}\s]+\}/g, 'x')) ? value : undefined),
    { type: 'string' },
  ),
  columns: z.strictObject({
    id: column(),
    type: column(),
    subject: column().optional(),
    data: column().optional(),
    schemaVersion: column().optional(),
    correlationId: column().optional(),
    causationId: column().optional(),
    headers: column().optional(),
    time: column().optional(),
  }),
})

const URI_REFERENCE = /^(?:[A-Za-z0-9\-._~:/?#[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2}){1,1024}$/

const section = <T extends z.ZodRawShape>(shape: T) => z.preprocess((value) => value ?? {}, z.strictObject(shape))

/**
 * The settings as a file writes them, with what the variables said laid over it. An unknown key is refused, so that a
 * typing error is never a silent default. The table in `variables.ts` gives each setting its variable.
 */
export const settings = z.strictObject({
  postgres: section({
    url: url('a URL such as postgres://user:password@host:5432/database', parsePostgresUrl),
    password: text('a password').optional(),
    passwordFile: file().optional(),
    tls: tls.optional(),
    connectTimeout: duration('10m').default(10_000),
  }),
  redis: section({
    url: url('a URL such as redis://user:password@host:6379/0', parseRedisUrl),
    username: text('a user name').optional(),
    password: text('a password').optional(),
    passwordFile: file().optional(),
    sentinelUsername: text('a user name').optional(),
    sentinelPassword: text('a password').optional(),
    sentinelPasswordFile: file().optional(),
    tls: tls.optional(),
    connectTimeout: duration('10m').default(5_000),
  }),
  slot: matching(/^[a-z0-9_]{1,63}$/, 'a slot name of 1 to 63 lower-case letters, digits and underscores').optional(),
  publication: matching(
    /^[A-Za-z_][A-Za-z0-9_]{0,62}$/,
    'a publication name of 1 to 63 letters, digits and underscores',
  ).default('outrider'),
  source: matching(
    URI_REFERENCE,
    'a URI reference that is not empty, such as /shop or https://example.com/shop',
  ).optional(),
  durability: oneOf('auto', 'memory', 'fsync', 'replicated', 'fsync+replicated').default('auto'),
  retention: retention().default(DEFAULT_RETENTION),
  retentionMaxSize: size('1048576GiB').default(50 * 1_073_741_824),
  maxEventBytes: size('64MiB').default(1_048_576),
  onGap: oneOf('repair', 'halt').default('repair'),
  repairMaxEvents: integer(1, 1_000_000_000, 'a number of events').default(10_000_000),
  http: section({
    port: integer(0, 65_535, 'a port').default(9474),
    host: text('an address to listen on, such as 0.0.0.0').default('0.0.0.0'),
  }),
  logLevel: oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent').default('info'),
  streams: z.record(z.string(), stream).default({}),
  outbox: outbox.default(OWN_OUTBOX as z.output<typeof outbox>),
  limits: section({
    batchEvents: integer(1, 10_000, 'a number of events').default(256),
    batchBytes: size('64MiB').default(262_144),
    inflightBytes: size('1GiB').default(8_388_608),
  }),
  drainTimeout: duration('1h').default(20_000),
})

export type Settings = z.output<typeof settings>
