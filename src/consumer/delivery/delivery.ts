import type { ConsumerGroup } from '../../redis/streams/consumer-group.js'
import type { StreamEntry } from '../../redis/streams/group-replies.js'
import { type ConsumerEvent, fieldOf, MalformedError, noEvent, readEvent } from '../event.js'
import { type HandlerMatch, type HandlerRegistry, NO_HANDLER, type RegisteredHandler } from '../handler-registry.js'
import type { Stage } from '../inbox/error-class.js'
import type { LazyAbort } from '../lazy-abort.js'
import { ENTRY_BYTES } from './limits.js'

/**
 * queued   may run as soon as there is a place for it
 * behind   stands behind another delivery of its ordering key
 * running  is in a call
 * waiting  for its next attempt, or for Redis
 * gone     out of this worker's hands; a call that still runs changes nothing of it any more
 */
export type DeliveryState = 'queued' | 'behind' | 'running' | 'waiting' | 'gone'

/** An entry of a stream in this worker's hands, until it is acknowledged, dead-lettered or released. */
export interface Delivery {
  readonly group: ConsumerGroup
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
  /** Of what is held of it without its payload, in bytes. */
  readonly baseSize: number
  /** Without the payload. While the fields are not held, it lacks headers. */
  event: ConsumerEvent
  readonly route: RegisteredHandler
  readonly found: HandlerMatch
  /** The payload as the schema makes it, while it runs. */
  data: unknown
  /** What runs one after another; undefined: in any order. */
  readonly orderingKey: string | undefined
  /** It was pending before it came here; what a stop has released may stand at no delivery at all. */
  readonly taken: boolean
  /** How often it was delivered since its last outcome, where it was taken from another consumer; else 0. */
  deliveryCount: number
  /** This worker has counted its own delivery of it. */
  begun: boolean
  /** A delivery was counted, also where it was not begun: to be uncounted where it is released. */
  counted: boolean
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
  /** Milliseconds since 1970 at which a newer version was first seen that no one here handles. */
  since: number | undefined
  /** Its call's, while it runs. */
  call: LazyAbort | undefined
  state: DeliveryState
  /** In the order of arrival. */
  place: number
}

/** The deliveries that one call takes; more than one only in a batch. */
export type Call = readonly [Delivery, ...Delivery[]]

export const isCall = (deliveries: readonly Delivery[]): deliveries is Call => deliveries.length > 0

export const isHeld = ({ state }: Delivery): boolean => state !== 'gone'

/** One more attempt of it has failed. */
export function countAttempt(delivery: Delivery, now: number): void {
  delivery.attempts += 1
  delivery.conflicts = 0
  delivery.interruptions = 0
  delivery.failingSince ??= now
}

/** A call of it has ended without an attempt. While it opened, another transaction held the inbox row, and the handler did not run. */
export function countInterruption(delivery: Delivery, stage: Stage): void {
  delivery.conflicts += 1
  if (stage !== 'opening') delivery.interruptions += 1
}

/** What is remembered in Redis of a delivery that did not come to its end, for the worker that gets it next. */
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
export const waitFields = ({ attempts, failingSince = 0, origin }: Delivery, due: number, error: string): string[] => [
  ...['waiting-attempts', String(attempts), 'waiting-since', String(failingSince), 'waiting-error', error],
  ...['waiting-due', new Date(due).toISOString(), 'waiting-entry', origin],
]

function waitOf(fields: readonly string[]): Partial<Remembered> {
  const attempts = fieldOf(fields, 'waiting-attempts')
  if (attempts === undefined) return {}
  // Zero where it has never failed.
  return { attempts: Number(attempts), failingSince: Number(fieldOf(fields, 'waiting-since')) || undefined }
}

/** Of what the text takes in memory: where it is not ASCII, two bytes for each of its units. */
export function byteSizeOf(fields: readonly string[]): number {
  let size = 0
  for (const text of fields) size += text.length
  const data = fieldOf(fields, 'data')
  return data === undefined || Buffer.byteLength(data) === data.length ? size : 2 * size
}

/** Its payload is not held any more, nor what else of its event may be large. */
export function giveUpPayload(delivery: Delivery): void {
  delivery.fields = undefined
  const none = { headers: {}, correlationId: undefined, causationId: undefined, sequence: undefined }
  delivery.event = { ...delivery.event, ...none }
}

/** It has its payload again. */
export function complete(delivery: Delivery, fields: readonly string[]): void {
  delivery.fields = fields
  if (!('malformed' in delivery.found)) delivery.event = readEvent(delivery.group.stream, fields)
}

/** What becomes of an entry here; `before`: what is known of one that was another consumer's. Pure. */
export function deliveryOf(
  group: ConsumerGroup,
  { id, fields, size }: StreamEntry,
  routes: HandlerRegistry,
  ordered: boolean,
  before?: { deliveryCount: number; attempts: string },
): Delivery {
  const { key } = group
  const { event, found } = lookAt(group.stream, fields, routes)
  const { attempts, failingSince, due, since } = rememberedOf(before?.attempts ?? '', fields)
  // Within its stream: a subject stays in one partition.
  const orderingKey = ordered && event.subject !== undefined ? `${group.stream} ${event.subject}` : undefined
  const texts = event.id.length + event.source.length + event.type.length + (event.subject?.length ?? 0)
  return {
    group,
    key,
    id,
    origin: fieldOf(fields, 'waiting-entry') ?? id,
    fields: size === undefined ? fields : undefined,
    size: size ?? byteSizeOf(fields),
    baseSize: ENTRY_BYTES + texts + (orderingKey?.length ?? 0),
    event,
    found,
    route: 'route' in found ? found.route : NO_HANDLER,
    orderingKey,
    data: undefined,
    taken: before !== undefined,
    deliveryCount: before?.deliveryCount ?? 0,
    begun: false,
    counted: false,
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

function lookAt(
  key: string,
  fields: readonly string[],
  routes: HandlerRegistry,
): { event: ConsumerEvent; found: HandlerMatch } {
  try {
    const event = readEvent(key, fields)
    return { event, found: routes.find(event) }
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error
    return { event: noEvent(key), found: { malformed: error.message } }
  }
}
