import { compareIds, timeOf } from '../../event/entry-id.js'
import { deadKey, retriesKey, waitingKey } from '../../event/names.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { idOf } from '../../redis/streams/await-entry.js'
import type { GroupPosition } from '../../redis/streams/survey.js'
import { attemptsOf, fieldIn } from '../attempts.js'

/** How an event stands with a consumer group. Times in milliseconds since 1970. */
export type Outcome =
  | { state: 'unread'; before: number | undefined }
  /** A worker has it: it runs, or is held. */
  | { state: 'delivered'; worker: string; idleMs: number; deliveries: number }
  | { state: 'backoff'; failed: number; since: number | undefined; next: number | undefined; worker: string }
  | { state: 'waiting'; failed: number; since: number | undefined; next: number | undefined; error: string | undefined }
  | { state: 'dead-lettered'; reason: string; error: string; attempts: number; at: string; letter: string }
  /** Acknowledged; or trimmed, so that nothing is known of it. */
  | { state: 'settled' }
  | { state: 'gone' }
  /** Letters or waiting entries were too many to look at in time, or Redis refused. */
  | { state: 'unknown'; why: string }

/** A group's outcome of the event of an entry; without one only what was set aside or dead-lettered can be told. */
export async function outcomeOf(
  client: RedisClient,
  stream: string,
  { name, lastDelivered, lag }: GroupPosition,
  event: { id: string; entry: string | undefined; appended: number },
  deadline: number,
): Promise<Outcome> {
  const { entry } = event
  if (entry !== undefined && compareIds(entry, lastDelivered) > 0) return { state: 'unread', before: lag }
  if (entry !== undefined) {
    const [pending] = (await client.xpending(stream, name, entry, entry, 1)) as [string, string, number, number][]
    if (pending) return pendingOf(pending, await client.hget(retriesKey(stream, name), entry))
  }
  const dead = await search(client, deadKey(stream, name), event, deadline)
  if (dead.fields) return deadOf(dead.fields, dead.entry)
  const waiting = await search(client, waitingKey(stream, name), event, deadline)
  if (waiting.fields) return waitingOf(waiting.fields)
  if (!dead.complete || !waiting.complete) return { state: 'unknown', why: 'too many dead letters to look at in time' }
  return { state: entry === undefined ? 'gone' : 'settled' }
}

function pendingOf(
  [, worker, idleMs, deliveries]: [string, string, number, number],
  remembered: string | null,
): Outcome {
  const { failed, failingSince, due, versionSince } = attemptsOf(remembered ?? '')
  if (failed === 0 && versionSince === undefined) return { state: 'delivered', worker, idleMs, deliveries }
  return { state: 'backoff', failed, since: failingSince ?? versionSince, next: due, worker }
}

function deadOf(fields: readonly string[], letter: string): Outcome {
  const value = (name: string) => fieldIn(fields, name) ?? ''
  return {
    state: 'dead-lettered',
    reason: value('deadreason'),
    error: value('deaderror'),
    attempts: Number(value('deadattempts')) || 0,
    at: value('deadtime'),
    letter,
  }
}

function waitingOf(fields: readonly string[]): Outcome {
  const value = (name: string) => fieldIn(fields, name)
  return {
    state: 'waiting',
    failed: Number(value('waiting-attempts')) || 0,
    since: Number(value('waiting-since')) || undefined,
    next: Date.parse(value('waiting-due') ?? '') || undefined,
    error: value('waiting-error'),
  }
}

const PAGE = 200

/** The newest first: what is looked for has mostly happened lately. Nothing was moved before the event was appended. */
async function search(
  client: RedisClient,
  key: string,
  { id, appended }: { id: string; appended: number },
  deadline: number,
): Promise<{ entry: string; fields?: readonly string[]; complete: boolean }> {
  for (let from = '+'; ; ) {
    const page = await client.xrevrange(key, from, String(appended), 'COUNT', PAGE)
    const found = page.find(([, fields]) => idOf(fields) === id)
    if (found) return { entry: found[0], fields: found[1], complete: true }
    if (page.length < PAGE) return { entry: '', complete: true }
    if (performance.now() > deadline) return { entry: '', complete: false }
    from = `(${page.at(-1)?.[0]}`
  }
}

/** When an event was appended at the earliest: by its entry, else by what its row says. */
export const appendedAt = (entry: string | undefined, createdAt: Date | undefined): number =>
  entry === undefined ? Math.max(0, (createdAt?.getTime() ?? 0) - 60_000) : timeOf(entry)
