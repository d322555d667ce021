import { ExitCode, OutriderError } from '../base/failure.js'
import { inBatches } from '../base/in-batches.js'
import type { Config } from '../config/schema.js'
import { closest } from '../config/suggestion.js'
import { closeRedis, connectRedis, type RedisClient } from '../redis/client/connect.js'
import { type Asked, answerOf, ask } from './asked.js'
import { baseOf, type GroupTotal, type StreamTotal, totalGroups, totalStreams } from './groups.js'
import { type InboxPlace, type InboxStatus, inboxPlaces, readInbox } from './inboxes.js'
import { type PostgresStatus, readPostgres } from './postgres.js'
import { findPublishedStreams, type RedisStatus, readRate, readRedis } from './redis.js'
import { askRelay, type RelayAnswer } from './relay.js'

/** All that `outrider status` knows. */
export interface Status {
  at: Date
  postgres: Asked<PostgresStatus>
  redis: Asked<RedisStatus>
  relay: RelayAnswer | undefined
  inboxes: InboxStatus[]
  /** Those that were used last come first. */
  streams: StreamTotal[]
  groups: GroupTotal[]
  /** Entries a second of the first streams, by name. */
  rates: Map<string, number>
}

export interface StatusOptions {
  config: Config
  /** URLs of further databases with an inbox. */
  inboxes: readonly string[]
  /** Undefined: all. */
  stream?: string | undefined
  group?: string | undefined
}

/** Streams whose rate is read. */
export const MAX_RATED = 10

/** Asks both servers at once as far as it can. Rejects for a stream or group that is not there. */
export async function readStatus({ config, inboxes, stream, group }: StatusOptions): Promise<Status> {
  const [own, ...others] = inboxPlaces(config.postgres, inboxes) as [InboxPlace, ...InboxPlace[]]
  const connecting = ask('Redis', () => connectRedis(config.redis, 'outrider-status'))
  const elsewhere = Promise.all(others.map(readInbox))
  const postgres = await ask('Postgres', () => readPostgres(config))
  const lineage = answerOf(postgres)?.lineage
  const relay = askRelay(lineage?.leader && lineage.session?.hostname, config.http.port)
  const ownInbox = answerOf(postgres) ? [await readInbox(own)] : []
  const client = await connecting
  const look = async ({ value }: { value: RedisClient }): Promise<Asked<Looked>> => {
    try {
      return await ask('Redis', () => lookAt(value, config, answerOf(postgres), stream))
    } finally {
      closeRedis(value)
    }
  }
  const looked = 'value' in client ? await look(client) : client
  const { redis, streams = [], groups = [], rates = new Map() } = answerOf(looked) ?? {}
  if (redis && group !== undefined) requireGroup(group, groups)
  return {
    at: new Date(),
    postgres,
    redis: 'failure' in looked ? looked : { value: looked.value.redis },
    relay: await relay,
    inboxes: [...ownInbox, ...(await elsewhere)],
    streams,
    groups: group === undefined ? groups : groups.filter((each) => each.group === group),
    rates,
  }
}

interface Looked extends Pick<Status, 'streams' | 'groups' | 'rates'> {
  redis: RedisStatus
}

async function lookAt(
  client: RedisClient,
  { streams: configured }: Config,
  postgres: PostgresStatus | undefined,
  wanted: string | undefined,
): Promise<Looked> {
  const lineage = postgres?.lineage
  const all = lineage?.streams.heads.map(({ key }) => key) ?? (await findPublishedStreams(client))
  const keys = wanted === undefined ? all : all.filter((key) => key === wanted || baseOf(key) === wanted)
  if (wanted !== undefined && keys.length === 0) throw unknown('stream', wanted, [...all, ...Object.keys(configured)])
  const redis = await readRedis(client, keys, lineage?.lineage)
  const streams = totalStreams(redis).sort((one, other) => (other.newest ?? 0) - (one.newest ?? 0))
  const rates = new Map<string, number>()
  await inBatches(streams.slice(0, MAX_RATED), MAX_RATED, async ({ stream, partitions }) => {
    const each = await Promise.all(partitions.map((survey) => readRate(client, survey, redis.now)))
    const known = each.filter((rate) => rate !== undefined)
    if (known.length > 0)
      rates.set(
        stream,
        known.reduce((sum, rate) => sum + rate, 0),
      )
  })
  return { redis, streams, groups: totalGroups(redis), rates }
}

function requireGroup(group: string, groups: readonly GroupTotal[]): void {
  if (!groups.some((each) => each.group === group))
    throw unknown(
      'group',
      group,
      groups.map((each) => each.group),
    )
}

/** A filter that is mistyped must not look like good news. */
function unknown(what: 'stream' | 'group', name: string, known: Iterable<string>): OutriderError {
  const names = new Set(known)
  const meant = closest(name, names)
  const shown = [...names].slice(0, 5).join(', ')
  return new OutriderError(
    `--${what}: found no ${what} "${name}". ${meant ? `Did you mean ${meant}?` : names.size > 0 ? `There is ${shown}${names.size > 5 ? ' …' : ''}.` : `There is none yet.`}`,
    { exitCode: ExitCode.usage },
  )
}
