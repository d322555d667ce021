import { Cluster } from 'ioredis'
import { closest } from '../config/suggestion.js'
import { partitionsKey } from '../event/names.js'
import type { RedisClient } from '../redis/client/connect.js'
import {
  type DeadStream,
  findDeadStreams,
  letterField,
  readDeadLetters,
  type Selection,
} from '../redis/streams/dead-letters.js'
import { surveyStreams } from '../redis/streams/survey.js'
import { unknownFilter } from './usage.js'

/** Letters whose type is looked at for what was probably meant. */
const MAX_TYPES_READ = 1_000

/**
 * For a selection of nothing: throws an OutriderError where a stream or group of it is not in this Redis, or a type or reason looks
 * like a mistyped one. What the ACL does not let it see is not judged.
 */
export async function requireKnownFilters(client: RedisClient, selection: Selection): Promise<void> {
  const { stream, group } = selection
  if (stream === undefined && group === undefined && selection.type === undefined && selection.reason === undefined)
    return
  const found = [...(await findDeadStreams(client, {})), ...(await findDeadStreams(client, {}, 'waiting'))]
  const published = await orUndefined(() => groupsOfStreams(client))
  if (stream !== undefined) await requireStream(client, stream, found, published)
  if (group !== undefined && published) {
    const groups = [...found.map((each) => each.group), ...[...published.values()].flat()]
    if (!groups.includes(group)) throw unknownFilter('group', group, groups)
  }
  await requireSpelling(client, selection)
}

/** For all streams of the database together, in milliseconds. */
const SEARCH_MS = 2_000

/** The groups of each stream of the database; undefined where not all of them could be looked at. */
async function groupsOfStreams(client: RedisClient): Promise<Map<string, string[]> | undefined> {
  const until = performance.now() + SEARCH_MS
  const keys: string[] = []
  for (const node of client instanceof Cluster ? client.nodes('master') : [client]) {
    for (let cursor: string | undefined = '0'; cursor !== undefined; ) {
      const [next, page]: [string, string[]] = await node.scan(cursor, 'COUNT', 1000, 'TYPE', 'stream')
      keys.push(...page.filter((key) => !key.startsWith('outrider:')))
      if (performance.now() > until) return undefined
      cursor = next === '0' ? undefined : next
    }
  }
  const surveys = await surveyStreams(client, keys)
  if (surveys.some((survey) => typeof survey === 'string')) return undefined
  return new Map(
    surveys.flatMap((survey) =>
      typeof survey === 'object' ? [[survey.key, survey.groups.map(({ name }) => name)] as const] : [],
    ),
  )
}

async function requireStream(
  client: RedisClient,
  stream: string,
  found: readonly DeadStream[],
  published: ReadonlyMap<string, unknown> | undefined,
): Promise<void> {
  const keys = [...found.map((each) => each.stream), ...(published?.keys() ?? [])]
  const names = [...keys, ...keys.map((key) => key.replace(/:\d+$/, ''))]
  if (names.includes(stream)) return
  for (const key of [stream, partitionsKey(stream)]) {
    const exists = await orUndefined(() => client.exists(key))
    if (exists !== 0) return
  }
  throw unknownFilter('stream', stream, names)
}

/** A type or reason of which there is no letter may be right; one that differs by a letter from what there is, is not. */
async function requireSpelling(client: RedisClient, { type, reason, ids: _, ...rest }: Selection): Promise<void> {
  for (const [option, value, field] of [
    ['type', type, 'type'],
    ['reason', reason, 'deadreason'],
  ] as const) {
    if (value === undefined) continue
    const values = new Set<string>()
    let read = 0
    for await (const letter of readDeadLetters(client, await findDeadStreams(client, rest), {})) {
      values.add(letterField(letter, field) ?? '')
      if (++read === MAX_TYPES_READ) break
    }
    if (!values.has(value) && closest(value, values) !== undefined) throw unknownFilter(option, value, values)
  }
}

async function orUndefined<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    if ((error as Error).name !== 'ReplyError') throw error
    return undefined
  }
}
