import type { EventDefinition, EventOutputData } from '../event/define.js'
import { ATTRIBUTES } from '../event/names.js'

/** An event as a handler gets it: CloudEvents attributes, and the payload as the schema returns it (its output). */
export interface ConsumerEvent<Data = unknown, Type extends string = string, Version extends number = number> {
  /** The id of the row in the outbox. Effects are deduplicated by `source` and `id`. */
  readonly id: string
  readonly source: string
  readonly type: Type
  /** The version of the payload's schema. */
  readonly version: Version
  /** The entity that the event is about; undefined if it has none. */
  readonly subject: string | undefined
  /** The CloudEvents time of the event, to the millisecond: by default the time of the insert. */
  readonly time: Date
  readonly correlationId: string | undefined
  readonly causationId: string | undefined
  /** Further attributes, such as `traceparent`. */
  readonly headers: Readonly<Record<string, string>>
  /** An opaque text. Within one source, the order of these texts, compared byte by byte, is the order of commits. */
  readonly sequence: string | undefined
  /** The key of the Redis stream: the name of the stream, followed by `:N` if the stream is partitioned. */
  readonly stream: string
  readonly data: Data
}

/** The type of the event of a definition. For a union of definitions: the union of their events. */
export type EventOf<Event extends EventDefinition> =
  Event extends EventDefinition<infer _, infer Type, infer Version>
    ? ConsumerEvent<EventOutputData<Event>, Type, Version>
    : never

/** An entry that is no event: dead-lettered as `malformed`, since no handler could ever take it. */
export class MalformedError extends Error {
  override name = 'MalformedError'
}

/** Stands for an entry that is none. */
export const noEvent = (stream: string): ConsumerEvent => ({
  id: '',
  source: '',
  type: 'malformed',
  version: 1,
  subject: undefined,
  time: new Date(0),
  correlationId: undefined,
  causationId: undefined,
  headers: {},
  sequence: undefined,
  stream,
  data: undefined,
})

/** Reads the fields of an entry, except the payload: `payloadOf`. Throws a MalformedError. */
export function readEvent(stream: string, fields: readonly string[]): ConsumerEvent {
  let id: string | undefined
  let source: string | undefined
  let type: string | undefined
  let subject: string | undefined
  let time: string | undefined
  let schemaVersion: string | undefined
  let correlationId: string | undefined
  let causationId: string | undefined
  let sequence: string | undefined
  const headers: Record<string, string> = {}
  // By hand, because every event of every worker comes through here.
  for (let n = 0; n + 1 < fields.length; n += 2) {
    const name = fields[n] as string
    const value = fields[n + 1] as string
    if (name === 'id') id = value
    else if (name === 'source') source = value
    else if (name === 'type') type = value
    else if (name === 'subject') subject = value
    else if (name === 'time') time = value
    else if (name === 'schemaversion') schemaVersion = value
    else if (name === 'correlationid') correlationId = value
    else if (name === 'causationid') causationId = value
    else if (name === 'sequence') sequence = value
    else if (!ATTRIBUTES.has(name) && !name.startsWith('waiting-')) headers[name] = value
  }
  const version = Number(schemaVersion ?? 1)
  if (!Number.isSafeInteger(version) || version < 1) {
    throw new MalformedError('Expected schemaversion as a whole number from 1, found something else')
  }
  const made = new Date(required('time', time))
  if (Number.isNaN(made.getTime())) {
    throw new MalformedError('Expected time in the form of RFC 3339, found something else')
  }
  return {
    id: required('id', id),
    source: required('source', source),
    type: required('type', type),
    version,
    subject,
    time: made,
    correlationId,
    causationId,
    headers,
    sequence,
    stream,
    data: undefined,
  }
}

function required(name: string, value: string | undefined): string {
  if (value) return value
  throw new MalformedError(`Expected a CloudEvent with the attribute ${name}, found none`)
}

/** The payload in the fields of an entry, parsed and not validated. Throws a MalformedError. */
export function payloadOf(fields: readonly string[]): unknown {
  const text = fieldOf(fields, 'data')
  if (text === undefined) return undefined
  try {
    return JSON.parse(text)
  } catch {
    throw new MalformedError('Expected data as JSON, found text that is not JSON')
  }
}

/** The last one of this name, as a map would have it. */
export function fieldOf(fields: readonly string[], name: string): string | undefined {
  for (let n = fields.length - (fields.length % 2) - 2; n >= 0; n -= 2) if (fields[n] === name) return fields[n + 1]
  return undefined
}

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i

/**
 * The earliest time at which an event can have been done, in milliseconds: when its id was made, where the id tells (version
 * 7, as Outrider's own are), else its time; and never later than its entry. The entry alone would not do: a replay gives an
 * old event a new one.
 */
export function bornAt(event: ConsumerEvent, entryId: string): number {
  const made = UUID_V7.test(event.id)
    ? Number.parseInt(event.id.slice(0, 8) + event.id.slice(9, 13), 16)
    : event.time.getTime()
  return Math.min(made, Number.parseInt(entryId, 10))
}

/** The name of the stream of a key: without its partition. */
export function streamOf(key: string): string {
  const colon = key.indexOf(':')
  return colon < 0 ? key : key.slice(0, colon)
}
