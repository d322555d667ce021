import type { EntryId } from '../../event/entry-id.js'
import { deadKey, headKey, policyKey } from '../../event/names.js'
import { POSITION, type Position } from '../../event/position.js'
import type { RedisClient } from '../client/connect.js'
import { Script } from '../scripts/script.js'

const include = (...names: string[]): string[] => names.map((name) => `includes/${name}.lua`)
const IDS = include('entry-id', 'stream-info')
const TRIMMABLE = include('position', 'entry-id', 'stream-info', 'soundness', 'trim-step', 'trimmable')
const surveyScript = new Script('survey-trim.lua', ...IDS, ...include('unfinished'))
const trimScript = new Script('trim.lua', ...TRIMMABLE, ...include('unfinished'))
const cutScript = new Script('cut.lua', ...TRIMMABLE)
const countDeadScript = new Script('count-dead.lua', ...include('stream-info'))
const deadScript = new Script('trim-dead.lua', ...include('entry-id', 'trim-step'))
const positionScript = new Script('find-position.lua', ...TRIMMABLE)

/** A group, and where in the stream its work ends. */
export interface GroupFloor {
  name: string
  /** The first id that it has not finished: not read, or not acknowledged. Everything before is. */
  floor: EntryId
}

/** A stream that may be trimmed. */
export interface TrimSurvey {
  /** By the clock of Redis, in milliseconds. */
  now: number
  length: number
  first: EntryId
  /** What each lineage that publishes to the stream keeps, as it has said it. */
  policies: ReadonlyMap<string, string>
  groups: readonly UnfinishedGroup[]
  /** Of memory, about; undefined where it was not measured, or the user may not. */
  bytes: number | undefined
  /** Of the server that has the stream; undefined as `bytes`. */
  memory: MemoryUse | undefined
}

/** What a survey asks for of `bytes` and `memory`. */
export type Measures = Record<'bytes' | 'memory', boolean>

/** Memory of a Redis server, in bytes. */
export interface MemoryUse {
  used: number
  /** `maxmemory`; undefined: without limit. */
  max: number | undefined
}

export interface UnfinishedGroup extends GroupFloor {
  /** Entries that it has not finished; undefined where Redis cannot tell. */
  unfinished: number | undefined
}

type SurveyReply = [] | [number, number, string, string[], [string, string, number][], [number, number, number]]

const isMissing = (reply: SurveyReply): reply is [] => reply.length === 0

/**
 * Looks at a stream, and says in Redis what this lineage keeps of it. Undefined where there is no such stream. Rejects with the
 * error of Redis. `retired`: lineages that publish no more; `measures`: what is asked for beside.
 */
export async function surveyForTrim(
  client: RedisClient,
  key: string,
  own: { lineage: string; policy: string; retired: readonly string[]; measures: Measures },
): Promise<TrimSurvey | undefined> {
  const flags = [own.measures.bytes, own.measures.memory].map((flag) => (flag ? '1' : ''))
  const args = [own.lineage, own.policy, ...flags, ...own.retired]
  const reply = (await surveyScript.call(client, [key, policyKey(key)], args)) as SurveyReply
  if (isMissing(reply)) return undefined
  const [now, length, first, flat, groups, [bytes, used, max]] = reply
  const policies = new Map<string, string>()
  for (let n = 0; n + 1 < flat.length; n += 2) policies.set(flat[n] as string, flat[n + 1] as string)
  return {
    ...{ now, length, first, policies },
    groups: groups.map(([name, floor, unfinished]) => ({
      ...{ name, floor, unfinished: unfinished < 0 ? undefined : unfinished },
    })),
    bytes: bytes < 0 ? undefined : bytes,
    memory: used < 0 ? undefined : { used, max: max > 0 ? max : undefined },
  }
}

/** The session that trims, and where in the stream it has got. */
export interface TrimmingHead {
  key: string
  lineage: string
  session: string
  /** The head is there at least. */
  position: Position
}

export interface TrimStep {
  /** Entries before it go, as far as all groups have finished them. */
  upTo: EntryId
  /** At most so many; undefined: all, in steps. */
  most: number | undefined
}

/**
 * Removes entries that every group has finished, some of those that the step names. Resolves with how many; undefined where the head is
 * not as it must be: another session leads, or the stream has lost entries, of this lineage or of another one in it. `known`: groups
 * that may be missing in Redis; `others`: lineages in the stream.
 */
export async function trim(
  client: RedisClient,
  head: TrimmingHead,
  step: TrimStep,
  known: readonly GroupFloor[],
  others: readonly string[],
): Promise<number | undefined> {
  const groups = known.flatMap(({ name, floor }) => [name, floor])
  const args = [step.upTo, step.most === undefined ? '' : String(step.most), ...groups]
  const reply = await trimScript.call(client, keysOf(head, others), [...whoseOf(head), ...args])
  const [status, removed] = reply as ['OK' | 'MOVED', number]
  return status === 'OK' ? removed : undefined
}

/** What went of a stream that had too many entries. */
export interface Cut {
  removed: number
  /** How many of these entries each group had not finished. */
  unfinished: ReadonlyMap<string, number>
}

/**
 * Removes the first entries of a stream, some of those that are too many, also such as groups have not finished. Undefined where `trim`
 * gives it.
 */
export async function cut(
  client: RedisClient,
  head: TrimmingHead,
  maxLength: number,
  others: readonly string[],
): Promise<Cut | undefined> {
  const reply = await cutScript.call(client, keysOf(head, others), [...whoseOf(head), String(maxLength)])
  const [status, removed, flat] = reply as ['OK' | 'MOVED', number, (string | number)[]]
  if (status !== 'OK') return undefined
  const unfinished = new Map<string, number>()
  for (let n = 0; n + 1 < flat.length; n += 2) unfinished.set(String(flat[n]), Number(flat[n + 1]))
  return { removed, unfinished }
}

const keysOf = ({ key, lineage }: TrimmingHead, others: readonly string[]): string[] => [
  ...[key, headKey(key, lineage), policyKey(key)],
  ...others.map((other) => headKey(key, other)),
]

const whoseOf = ({ lineage, session, position }: TrimmingHead): string[] => [lineage, session, position]

/** Removes dead letters that are before an entry, some of them; resolves with how many. */
export async function trimDead(client: RedisClient, key: string, upTo: EntryId): Promise<number> {
  return (await deadScript.call(client, [key], [upTo])) as number
}

/** Dead letters of a group. */
export interface DeadLetters {
  count: number
  /** The oldest one; 0-0 without any. */
  first: EntryId
}

/** How many dead letters these groups of a stream have, in the order of the groups. */
export async function countDead(client: RedisClient, key: string, groups: readonly string[]): Promise<DeadLetters[]> {
  if (groups.length === 0) return []
  const keys = groups.map((name) => deadKey(key, name))
  const reply = (await countDeadScript.call(client, keys, [])) as [number, EntryId][]
  return reply.map(([count, first]) => ({ count, first }))
}

/** The first event of a source in a stream. */
export interface FirstEvent {
  /** `none`: no entry is of the source; `unknown`: not among the entries that are looked at. */
  position: Position | 'none' | 'unknown'
  id: string
}

/** Undefined where `trim` gives it. */
export async function findFirst(
  client: RedisClient,
  head: TrimmingHead,
  source: string,
  others: readonly string[],
): Promise<FirstEvent | undefined> {
  const reply = await positionScript.call(client, keysOf(head, others), [...whoseOf(head), source])
  const [status, position, id] = reply as ['OK' | 'MOVED', string, string]
  if (status !== 'OK') return undefined
  return { position: position === 'none' || POSITION.test(position) ? position : 'unknown', id }
}
