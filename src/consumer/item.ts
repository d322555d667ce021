import type { Entry, Group } from '../redis/group.js'
import { type ConsumerEvent, fieldOf, MalformedError, noEvent, readEvent } from './event.js'
import { type Found, NOBODY, type Route, type Routes } from './routes.js'
import type { Stop } from './stop.js'

/**
 * queued   may run as soon as there is a place for it
 * behind   stands behind another item of its lane
 * running  is in a call
 * waiting  for its next attempt, or for Redis
 * gone     out of this worker's hands; a call that still runs changes nothing of it any more
 */
export type State = 'queued' | 'behind' | 'running' | 'waiting' | 'gone'

/** An entry of a stream in this worker's hands, until it is acknowledged, dead-lettered or let go of. */
export interface Item {
  readonly group: Group
  /** The stream's key. */
  readonly key: string
  /** The entry's id. */
  readonly id: string
  /** That it had in the stream of its event. */
  readonly origin: string
  /** With the payload; undefined while it is not held: see Payloads. */
  fields: readonly string[] | undefined
  /** Of its fields, in bytes. */
  readonly size: number
  /** Without the payload. While the fields are not held, it may lack headers. */
  event: ConsumerEvent
  readonly route: Route
  readonly found: Found
  /** The payload as the schema makes it, while it runs. */
  data: unknown
  /** What runs one after another; undefined: in any order. */
  readonly lane: string | undefined
  /** It was pending before it came here; what a stop has let go of may stand at no delivery at all. */
  readonly taken: boolean
  /** How often it was delivered since its last outcome, where it was taken from another consumer; else 0. */
  deliveries: number
  /** This worker has counted its own delivery of it. */
  begun: boolean
  /** Attempts that have failed. */
  attempts: number
  /** A call of it has failed, whether that was an attempt or not. */
  tried: boolean
  /** When the first of them failed, in milliseconds since 1970; undefined before. */
  failingSince: number | undefined
  /** Conflicts of its transactions, one after another. */
  conflicts: number
  /** Those among them in its handler or at the commit: some of them count as an attempt. */
  interruptions: number
  /** When the next attempt is due, in milliseconds since 1970. */
  due: number
  /** Milliseconds since 1970 at which a newer version was first seen that nobody here handles. */
  since: number | undefined
  /** Its call's, while it runs. */
  call: Stop | undefined
  state: State
  /** In the order of arrival. */
  place: number
}

/** What is remembered in Redis of an item that did not come to its end, for whoever gets it next. */
export interface Remembered {
  /** Failed attempts. */
  attempts: number
  /** When the first of them failed, in milliseconds since 1970; unknown where an older version failed it. */
  failingSince?: number | undefined
  /** When the next attempt is due, in milliseconds since 1970. */
  due?: number
  /** Since when a newer worker is waited for. */
  since?: number
}

function rememberedOf(text: string, fields: readonly string[]) {
  const known: Partial<Remembered> = text === '' ? waitOf(fields) : JSON.parse(text)
  const { attempts = 0, failingSince, due = 0, since } = known
  return { attempts, failingSince, due, since }
}

/** The fields of an entry in a waiting stream beside those of the event. */
export const waitFields = ({ attempts, failingSince = 0, origin }: Item, due: number, error: string): string[] => [
  ...['waiting-attempts', String(attempts), 'waiting-since', String(failingSince), 'waiting-error', error],
  ...['waiting-due', new Date(due).toISOString(), 'waiting-entry', origin],
]

function waitOf(fields: readonly string[]): Partial<Remembered> {
  const value = (name: string) => fieldOf(fields, name)
  const attempts = value('waiting-attempts')
  // Zero where it has never failed.
  const failingSince = Number(value('waiting-since')) || undefined
  return attempts === undefined ? {} : { attempts: Number(attempts), failingSince }
}

/** Of what the text takes in memory: where it is not ASCII, two bytes for each of its units. */
export function sizeOf(fields: readonly string[]): number {
  let size = 0
  for (const text of fields) size += text.length
  const data = fieldOf(fields, 'data')
  return data === undefined || Buffer.byteLength(data) === data.length ? size : 2 * size
}

/** It has its payload again. */
export function complete(item: Item, fields: readonly string[]): void {
  item.fields = fields
  if (!('malformed' in item.found)) item.event = readEvent(item.group.stream, fields)
}

/** What becomes of an entry here; `before`: what is known of one that was another consumer's. Pure. */
export function itemOf(
  group: Group,
  { id, fields, size }: Entry,
  routes: Routes,
  ordered: boolean,
  before?: { deliveries: number; attempts: string },
): Item {
  const { key } = group
  const { event, found } = lookAt(group.stream, fields, routes)
  const { attempts, failingSince, due, since } = rememberedOf(before?.attempts ?? '', fields)
  return {
    group,
    key,
    id,
    origin: fieldOf(fields, 'waiting-entry') ?? id,
    fields: size === undefined ? fields : undefined,
    size: size ?? sizeOf(fields),
    event,
    found,
    route: 'route' in found ? found.route : NOBODY,
    // Within its stream: a subject stays in one partition.
    lane: ordered && event.subject !== undefined ? `${group.stream} ${event.subject}` : undefined,
    data: undefined,
    taken: before !== undefined,
    deliveries: before?.deliveries ?? 0,
    begun: false,
    attempts,
    tried: attempts > 0,
    failingSince,
    conflicts: 0,
    interruptions: 0,
    due,
    since,
    call: undefined,
    state: 'queued',
    place: 0,
  }
}

function lookAt(key: string, fields: readonly string[], routes: Routes): { event: ConsumerEvent; found: Found } {
  try {
    const event = readEvent(key, fields)
    return { event, found: routes.find(event) }
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error
    return { event: noEvent(key), found: { malformed: error.message } }
  }
}
