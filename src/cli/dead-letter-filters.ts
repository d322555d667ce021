import { closest } from '../config/closest.js'
import { partitionsKey } from '../event/names.js'
import type { RedisClient } from '../redis/connect.js'
import { type DeadStream, fieldOf, findDeadStreams, readDeadLetters, type Selection } from '../redis/dead-letters.js'
import { surveyStreams } from '../redis/survey.js'
import { findPublishedStreams } from '../status/redis.js'
import { unknownFilter } from './usage.js'

/** Letters whose type is looked at for what was probably meant. */
const MAX_TYPES_READ = 1_000

/**
 * For a selection of nothing: throws a Failure where a stream or group of it is not in this Redis, or a type or reason looks
 * like a mistyped one. What the ACL does not let it see is not judged.
 */
export async function requireKnownFilters(client: RedisClient, selection: Selection): Promise<void> {
  const { stream, group } = selection
  if (stream === undefined && group === undefined && selection.type === undefined && selection.reason === undefined)
    return
  const found = [...(await findDeadStreams(client, {})), ...(await findDeadStreams(client, {}, 'waiting'))]
  const published = await orUndefined(() => publishedGroups(client))
  if (stream !== undefined) await requireStream(client, stream, found, published)
  if (group !== undefined && published) {
    const groups = [...found.map((each) => each.group), ...[...published.values()].flat()]
    if (!groups.includes(group)) throw unknownFilter('group', group, groups)
  }
  await requireSpelling(client, selection)
}

/** Groups of each stream that was published to. */
async function publishedGroups(client: RedisClient): Promise<Map<string, string[]>> {
  const keys = await findPublishedStreams(client)
  const surveys = await surveyStreams(client, keys)
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
      values.add(fieldOf(letter, field) ?? '')
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
