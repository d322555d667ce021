import type { Head } from '../../event/head.js'
import { headKey } from '../../event/names.js'
import type { Position } from '../../event/position.js'
import type { RedisClient } from '../client/connect.js'
import { Script, sendEncoded } from '../scripts/script.js'
import { type AppendArguments, AppendTarget } from './append-arguments.js'

/** The part of a reply of append.lua that does not depend on its status. */
export interface HeadReport {
  /** The head as it is now; a zero position and entry 0-0 when there is none. */
  head: Head
  /** The session at the head; empty when there is none. */
  session: string
  appended: number
  /** Events that were in the stream already. */
  skipped: number
  error: string
}

/** Every event is in the stream. */
export interface AppendedReply extends HeadReport {
  status: 'OK'
}

/** The stream or its head is not what the chain builds on; nothing was written. See append.lua for each status. */
interface MismatchReply extends HeadReport {
  status: 'OTHER' | 'BEHIND' | 'DIVERGED'
}

/** Redis refused: `appended` events were written before, the head covers exactly those. */
export interface RefusedReply extends HeadReport {
  status: 'ERROR'
}

/** Malformed arguments; nothing was written. */
interface InvalidReply extends HeadReport {
  status: 'INVALID'
}

export type AppendReply = AppendedReply | MismatchReply | RefusedReply | InvalidReply

const script = new Script('append.lua', ...['includes/position.lua', 'includes/entry-id.lua', 'includes/soundness.lua'])
const headRemoval = new Script('remove-head.lua')

/** Arguments of a call before its events. The chain's `previous` is filled in when the batch is sent. */
const PREVIOUS = 6

/** The arguments of a call without events; they would be pushed behind. With an empty session: of a look, which writes nothing. */
export const batchArguments = (key: string, lineage: string, session: string, expected = ''): string[] => [
  script.sha,
  '2',
  key,
  headKey(key, lineage),
  session,
  expected,
  '',
]

/** Makes append.lua known. To be called on every new connection. */
export const loadAppend = (client: RedisClient): Promise<void> => script.load(client)

/** Removes the head of a stream, unless it is another one than was `found`. */
export async function removeHead(
  client: RedisClient,
  key: string,
  lineage: string,
  found: Pick<HeadReport, 'session' | 'head'>,
): Promise<void> {
  await headRemoval.call(client, [headKey(key, lineage)], [found.session, found.head.entry])
}

/**
 * Appends a batch behind `previous`; without events, probes the stream and its head. An error reply of the script as a
 * whole (NOSCRIPT, BUSY, LOADING) comes back as status ERROR; a lost connection rejects: the outcome is not known.
 */
export async function append(client: RedisClient, args: string[], previous: Position): Promise<AppendReply> {
  args[PREVIOUS] = previous
  return readReply(script.run(client, args))
}

/** Of all batches of one stream. */
export const appendTarget = (key: string, lineage: string, session: string): AppendTarget =>
  new AppendTarget(script.sha, key, lineage, session)

/** The same for a batch that was encoded as it came. */
export function appendBatch(client: RedisClient, batch: AppendArguments, previous: Position): Promise<AppendReply> {
  return readReply(sendEncoded(client, 'evalsha', batch.routing, batch.encode(previous)))
}

async function readReply(replied: Promise<unknown>): Promise<AppendReply> {
  let reply: string[]
  try {
    reply = (await replied) as string[]
  } catch (error) {
    if ((error as Error).name !== 'ReplyError') throw error
    reply = ['ERROR', '', '', '0-0', '', '0', '0', (error as Error).message]
  }
  const [status, position, event, entry, session, appended, skipped, message] = reply as [
    AppendReply['status'],
    ...string[],
  ]
  return {
    status,
    head: { position: position as string, event: event as string, entry: entry as string },
    session: session as string,
    appended: Number(appended),
    skipped: Number(skipped),
    error: message as string,
  }
}
