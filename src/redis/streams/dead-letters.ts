import { Cluster, type Redis } from 'ioredis'
import { replayedKey } from '../../event/names.js'
import type { RedisClient } from '../client/connect.js'
import { Script } from '../scripts/script.js'

/** The fields of a dead letter besides those of the original entry. */
export const DEAD_FIELDS = ['deadreason', 'deaderror', 'deadattempts', 'deadtime', 'deadentry'] as const

/** The dead letters of one group in one stream, `outrider:{<stream key>}:dead:<group>`, up to the last one when they were found. */
export interface DeadStream {
  key: string
  /** The key of the stream that they come from and go back to. */
  stream: string
  group: string
  length: number
  /** The last id by then. A letter that is put back and dies again gets a greater one, so that no run meets it twice. */
  last: string
}

/** What is not given selects everything. */
export interface Selection {
  /** A stream's name, which selects its partitions, too, or a stream key. */
  stream?: string
  group?: string
  type?: string
  reason?: string
  /** Event ids, or ids of dead letters. */
  ids?: ReadonlySet<string>
}

export interface DeadLetterEntry {
  from: DeadStream
  /** The id of the dead letter itself. */
  entry: string
  /** As they stand there. What was malformed may lack any of them, or have one twice. */
  fields: [name: string, value: string][]
  size: number
}

/** What became of the letters of one batch. */
export interface ReplayOutcome {
  done: number
  /** Were not there any more. */
  gone: number
  /** Could not be put back as they are: see replay-dead-letters.lua. */
  kept: number
}

/** The last one, as an object would have it. */
export const letterField = ({ fields }: DeadLetterEntry, name: string): string | undefined =>
  fields.findLast(([field]) => field === name)?.[1]

const KEY = /^outrider:\{([^{}]+)\}:(?:dead|waiting):(.+)$/s

/**
 * Every one that may hold selected letters, on every master, in the order of their keys. Empty ones are left out. `waiting`: the streams
 * of what a group has set aside until its next attempt, whose entries are read like letters.
 */
export async function findDeadStreams(
  client: RedisClient,
  { stream, group }: Selection,
  kind: 'dead' | 'waiting' = 'dead',
): Promise<DeadStream[]> {
  const pattern = `outrider:{${stream === undefined ? '' : literal(stream)}*}:${kind}:${group === undefined ? '*' : literal(group)}`
  const nodes: Redis[] = client instanceof Cluster ? client.nodes('master') : [client]
  const keys = new Set((await Promise.all(nodes.map((node) => scan(node, pattern)))).flat())
  const found: DeadStream[] = []
  for (const key of [...keys].sort()) {
    const [, from, of] = KEY.exec(key) ?? []
    if (from === undefined || of === undefined || (group !== undefined && of !== group)) continue
    if (stream !== undefined && from !== stream && from.replace(/:\d+$/, '') !== stream) continue
    const extent = await extentOf(client, key)
    if (extent.length > 0) found.push({ key, stream: from, group: of, ...extent })
  }
  return found
}

const literal = (text: string): string => text.replace(/[\\*?[\]^-]/g, '\\$&')

async function scan(node: Redis, pattern: string): Promise<string[]> {
  const found: string[] = []
  let cursor = '0'
  do {
    const [next, keys] = await node.scan(cursor, 'MATCH', pattern, 'COUNT', 1000, 'TYPE', 'stream')
    found.push(...keys)
    cursor = next
  } while (cursor !== '0')
  return found
}

async function extentOf(client: RedisClient, key: string): Promise<{ length: number; last: string }> {
  const [[last] = []] = await client.xrevrange(key, '+', '-', 'COUNT', 1)
  return last === undefined ? { length: 0, last: '0-0' } : { length: await client.xlen(key), last }
}

/** What a page of letters or a call of the script may come to, in characters; one letter may be larger. */
const MOST_SIZE = 1_048_576
const MOST_READ = 500
/** A script keeps all others waiting. */
const MOST_REPLAYED = 50

/**
 * The selected letters, oldest first in each stream. Reads page by page and holds no more than one, so that letters may be
 * removed meanwhile. `onRead` hears how many were looked at.
 */
export async function* readDeadLetters(
  client: RedisClient,
  streams: readonly DeadStream[],
  selection: Selection,
  onRead: (letters: number) => void = () => {},
): AsyncGenerator<DeadLetterEntry> {
  for (const from of streams) {
    let start = '-'
    let count = 10
    for (;;) {
      const page = (await client.xrange(from.key, start, from.last, 'COUNT', count)).map((entry) =>
        letterOf(from, entry),
      )
      onRead(page.length)
      for (const letter of page) if (isSelected(letter, selection)) yield letter
      if (page.length < count) break
      start = `(${page.at(-1)!.entry}`
      const size = page.reduce((sum, letter) => sum + letter.size, 0) / page.length
      count = Math.min(MOST_READ, Math.max(1, Math.floor(MOST_SIZE / size)))
    }
  }
}

function letterOf(from: DeadStream, [entry, flat]: [entry: string, fields: string[]]): DeadLetterEntry {
  const fields: [string, string][] = []
  for (let i = 0; i + 1 < flat.length; i += 2) fields.push([flat[i] as string, flat[i + 1] as string])
  return { from, entry, fields, size: flat.reduce((sum, text) => sum + text.length, 0) }
}

function isSelected(letter: DeadLetterEntry, { type, reason, ids }: Selection): boolean {
  if (type !== undefined && letterField(letter, 'type') !== type) return false
  if (reason !== undefined && letterField(letter, 'deadreason') !== reason) return false
  return ids === undefined || idsOf(letter).some((id) => ids.has(id))
}

/** What it may be asked for by. */
export const idsOf = (letter: DeadLetterEntry): string[] => {
  const id = letterField(letter, 'id')
  return id === undefined ? [letter.entry] : [letter.entry, id]
}

const script = new Script('replay-dead-letters.lua')

/**
 * Puts the selected letters back into their streams, and tells of each batch. Stopped anywhere, it has put back what it
 * told of and at most one batch more, and can be run again. When Redis refuses, it tells what was done, then throws the
 * error reply.
 */
export async function* replayDeadLetters(
  client: RedisClient,
  streams: readonly DeadStream[],
  selection: Selection,
): AsyncGenerator<ReplayOutcome> {
  for await (const { from, letters } of batches(readDeadLetters(client, streams, selection))) {
    const entries = letters.map(({ entry }) => entry)
    const reply = await script.call(client, [from.stream, from.key, replayedKey(from.stream, from.group)], entries)
    const [done, gone, kept, refused] = reply as [number, number, number, string]
    yield { done, gone, kept }
    if (refused !== '') throw Object.assign(new Error(`${refused} (stream ${from.stream})`), { name: 'ReplyError' })
  }
}

/**
 * Removes the selected letters for good, and tells of each batch. Can be stopped and run again. `record` hears of those of one stream
 * before they are removed.
 */
export async function* discardDeadLetters(
  client: RedisClient,
  streams: readonly DeadStream[],
  selection: Selection,
  record: (letters: readonly DeadLetterEntry[]) => Promise<void> = async () => {},
): AsyncGenerator<ReplayOutcome> {
  for await (const { from, letters } of batches(readDeadLetters(client, streams, selection))) {
    await record(letters)
    const done = await client.xdel(from.key, ...letters.map(({ entry }) => entry))
    yield { done, gone: letters.length - done, kept: 0 }
  }
}

/** Of one stream each. */
async function* batches(
  letters: AsyncIterable<DeadLetterEntry>,
): AsyncGenerator<{ from: DeadStream; letters: DeadLetterEntry[] }> {
  let batch: { from: DeadStream; letters: DeadLetterEntry[]; size: number } | undefined
  for await (const letter of letters) {
    const { from, size } = letter
    if (batch && (batch.from !== from || batch.letters.length >= MOST_REPLAYED || batch.size + size > MOST_SIZE)) {
      yield batch
      batch = undefined
    }
    batch ??= { from, letters: [], size: 0 }
    batch.letters.push(letter)
    batch.size += size
  }
  if (batch) yield batch
}
