import { Cluster, type Redis } from 'ioredis'
import { inBatches } from '../base/in-batches.js'
import { type AwayNode, type NodeFacts, readReachedNodes, versionOf } from '../check/redis-facts.js'
import { aliveKey } from '../event/names.js'
import { primaryNameOf } from '../redis/client/cluster-nodes.js'
import type { RedisClient } from '../redis/client/connect.js'
import {
  type GroupPosition,
  type GroupSurvey,
  type StreamSurvey,
  surveyGroups,
  surveyStreams,
} from '../redis/streams/survey.js'
import { type Failures, NO_FAILURES, needsFailures, readFailures } from './failures.js'

/** How Redis, and the streams of a lineage in it, stand. */
export interface RedisStatus {
  /** Its clock, in milliseconds. */
  now: number
  product: string
  nodes: NodeFacts[]
  /** Primaries of a cluster that do not answer. */
  away: AwayNode[]
  /** The session that leads, as it says in Redis; null: none within 15 s. Undefined: not asked, or not permitted. */
  aliveSession: string | null | undefined
  streams: StreamSurvey[]
  groups: GroupFacts[]
  /** Keys that are not there. */
  missing: string[]
  /** What could not be read, and why. */
  refused: { key: string; error: string }[]
}

export interface GroupFacts extends GroupPosition, GroupSurvey {
  /** The stream's key. */
  stream: string
  failures: Failures
}

export async function readRedis(
  client: RedisClient,
  keys: readonly string[],
  lineage: string | undefined,
): Promise<RedisStatus> {
  const { nodes, away } = await readReachedNodes(client)
  const now = await timeOfRedis(client)
  const { product, version } = versionOf(nodes[0]?.info ?? {})
  const surveys = await surveyReached(client, keys, away)
  const refused = surveys.flatMap((found, n) =>
    typeof found === 'string' ? [{ key: keys[n] as string, error: found }] : [],
  )
  const streams = surveys.filter((found): found is StreamSurvey => typeof found === 'object')
  const groups = await readGroups(client, streams, now)
  return {
    ...{ now, nodes, away, streams },
    product: `${product} ${version}`,
    aliveSession:
      lineage === undefined
        ? undefined
        : await client.get(aliveKey(lineage)).catch(away.length > 0 ? () => undefined : unlessRefused),
    groups: groups.found,
    missing: keys.filter((_, n) => surveys[n] === undefined),
    refused: [...refused, ...groups.refused],
  }
}

/** A key whose primary is away is not asked for: each call would wait until it times out. */
async function surveyReached(client: RedisClient, keys: readonly string[], away: readonly AwayNode[]) {
  if (!(client instanceof Cluster) || away.length === 0) return surveyStreams(client, keys)
  const errors = new Map(away.map(({ name, error }) => [name, `no answer from ${name}: ${error.message}`]))
  const errorOf = (key: string) => errors.get(primaryNameOf(client, key) ?? '')
  const unreached = new Map(keys.map((key) => [key, errorOf(key)]))
  const reached = keys.filter((key) => unreached.get(key) === undefined)
  const surveys = new Map((await surveyStreams(client, reached)).map((found, n) => [reached[n], found]))
  return keys.map((key) => unreached.get(key) ?? surveys.get(key))
}

/** In milliseconds; of this machine where TIME is not permitted. */
export const timeOfRedis = async (client: RedisClient): Promise<number> => {
  const time = await anyTime(client).catch(unlessRefused)
  return time === undefined ? Date.now() : Number(time[0]) * 1000 + Math.floor(Number(time[1]) / 1000)
}

/** Of a cluster the first answer counts. */
const anyTime = (client: RedisClient): Promise<unknown[]> =>
  client instanceof Cluster
    ? Promise.any(client.nodes('master').map((node) => node.time())).catch(({ errors }: AggregateError) => {
        throw errors[0] ?? new Error('None of the primaries of the cluster is connected')
      })
    : client.time()

export function unlessRefused(error: Error): undefined {
  if (error.name !== 'ReplyError') throw error
}

/** Groups whose entries are looked at. */
const MAX_DETAILED = 200
const DETAILED_AT_ONCE = 20

async function readGroups(client: RedisClient, streams: readonly StreamSurvey[], now: number) {
  const named = streams.flatMap(({ key, groups }) => groups.map((position) => ({ stream: key, position })))
  const surveys = await surveyGroups(
    client,
    named.map(({ stream, position: { name, lastDelivered } }) => ({ stream, group: name, lastDelivered })),
  )
  const refused: RedisStatus['refused'] = []
  const found: GroupFacts[] = []
  for (const [n, { stream, position }] of named.entries()) {
    const survey = surveys[n] as GroupSurvey | string
    if (typeof survey === 'string') refused.push({ key: `${stream}, group ${position.name}`, error: survey })
    else found.push({ ...position, ...survey, stream, failures: NO_FAILURES })
  }
  const detailed = [...found.entries()].filter(([, group]) => needsFailures(group, now)).slice(0, MAX_DETAILED)
  await inBatches(detailed, DETAILED_AT_ONCE, async ([n, group]) => {
    const failures = await readFailures(client, group.stream, group, now).catch(unlessRefused)
    if (failures) found[n] = { ...group, failures }
  })
  return { found, refused }
}

/** How long the whole database is searched for heads where Postgres cannot name the streams, in milliseconds. */
const SEARCH_MS = 1_000
const HEAD_KEY = /^outrider:\{([^{}]+)\}:head:/

/** Keys of streams that some relay has published to. Not all of them where the database is large. */
export async function findPublishedStreams(client: RedisClient): Promise<string[]> {
  const nodes: Redis[] = client instanceof Cluster ? client.nodes('master') : [client]
  const until = performance.now() + SEARCH_MS
  const found = new Set<string>()
  for (const node of nodes) {
    for (let cursor: string | undefined = '0'; cursor !== undefined && performance.now() < until; ) {
      const [next, keys]: [string, string[]] = await node.scan(cursor, 'MATCH', 'outrider:{*}:head:*', 'COUNT', 1000)
      for (const key of keys) found.add(HEAD_KEY.exec(key)?.[1] ?? '')
      cursor = next === '0' ? undefined : next
    }
  }
  found.delete('')
  return [...found].sort()
}

/** How many of the newest entries a rate is made of, at most. */
const MAX_RATED = 100
const RATED_BYTES = 262_144

/** Entries a second, from the newest of them up to now; undefined where there are fewer than two. */
export async function readRate(
  client: RedisClient,
  { key, length, bytes, added }: StreamSurvey,
  now: number,
): Promise<number | undefined> {
  if (length < 2) return undefined
  const size = (bytes ?? 0) / length
  const count = Math.max(2, Math.min(MAX_RATED, size > 0 ? Math.floor(RATED_BYTES / size) : 10))
  const entries = await client.xrevrange(key, '+', '-', 'COUNT', Math.min(count, added ?? count)).catch(unlessRefused)
  const first = entries?.at(-1)?.[0]
  if (first === undefined || entries === undefined || entries.length < 2) return undefined
  const seconds = Math.max(1, now - Number.parseInt(first, 10)) / 1000
  return entries.length / seconds
}
