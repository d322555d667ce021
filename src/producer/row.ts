import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { EventDefinition, EventInputData } from '../event/define.js'
import { EventError, type EventIssue } from '../event/error.js'
import { attributeIssues, definedHeaders, type EventAttributes } from './attributes.js'
import { newId } from './id.js'
import { JsonText, toJson } from './json.js'

/** One event to publish: its payload, `data`, and its attributes. `data` is optional if the schema accepts `undefined`. */
export type EventInput<Event extends EventDefinition> = EventAttributes &
  (undefined extends EventInputData<Event>
    ? { data?: EventInputData<Event> | undefined }
    : { data: EventInputData<Event> })

/** The columns of `outrider.outbox` that an event fills. Leave all other columns to their defaults: Outrider uses them. */
export interface OutboxRow {
  id: string
  stream: string
  type: string
  /** Null: the event has no subject. */
  subject: string | null
  /** The payload. Every library stores the same JSON; `String(row.data)` returns its text. Null: no payload. */
  data: JsonText | null
  schema_version: number
  correlation_id: string | null
  causation_id: string | null
  headers: Record<string, string>
  /** Absent if the input has no `time`; the default of the column then applies. */
  created_at?: Date
}

/**
 * Checks one event as `publish` does, and returns the values of its columns for an insert into `outrider.outbox` with an ORM.
 *
 *     await tx.insert(outbox).values(toRow(OrderPlaced, { subject, data }))                   // Drizzle
 *     await tx.insertInto('outrider.outbox').values(toRow(OrderPlaced, { data })).execute()   // Kysely
 *
 * Its keys are the names of the columns. Declare `data` and `headers` in Drizzle as `json()`, in Kysely as
 * `JsonText | null` and `Record<string, string>`. Throws an EventError if the event does not fit its schema or a
 * limit, and if the schema validates asynchronously: only `publish` can wait for it.
 */
export function toRow<Event extends EventDefinition>(event: Event, input: EventInput<Event>): OutboxRow {
  const row = checkedRow(event, input)
  if (!(row instanceof Promise)) return row
  // No one waits for it any more; the error below says all there is to say.
  row.catch(() => {})
  const message = 'Expected a schema that validates synchronously, found one that returns a promise'
  throw new EventError(subjectOf(event), [{ path: ['data'], message }], 'Use publish, or a schema without async rules.')
}

/** A row that has passed every check; a promise of it only where the schema validates asynchronously. */
export function checkedRow(
  event: EventDefinition,
  input: EventInput<EventDefinition>,
  index?: number,
): OutboxRow | Promise<OutboxRow> {
  const refuse = (issues: readonly EventIssue[]): never => {
    throw new EventError(subjectOf(event, index), issues, ADVICE)
  }
  if (typeof input !== 'object' || input === null) {
    return refuse([{ message: `Expected an object such as { subject, data }, found ${typeof input}` }])
  }
  const issues = attributeIssues(input)
  if (issues.length > 0) return refuse(issues)
  const text = payload(input.data, refuse)
  const row = toColumns(event, input, text)
  const bytes = bytesOf(row)
  if (bytes > event.maxBytes) {
    const message = `Expected at most ${event.maxBytes} bytes (maxBytes of its definition), found ${bytes}`
    return refuse([{ message }])
  }
  const accept = (result: StandardSchemaV1.Result<unknown>): OutboxRow => {
    if (!result.issues) return row
    return refuse(result.issues.map((issue) => ({ ...issue, path: ['data', ...(issue.path ?? [])] })))
  }
  const result = event.data['~standard'].validate(text === undefined ? undefined : JSON.parse(text))
  return 'then' in result ? Promise.resolve(result).then(accept) : accept(result)
}

const ADVICE = 'Nothing was sent to Postgres. Data is checked as consumers will read it: as JSON.'

const subjectOf = (event: EventDefinition, index?: number): string =>
  `The event ${event.type}, version ${event.version}, ` +
  `${index === undefined ? '' : `at index ${index} of the array `}cannot be stored for the stream ${event.stream}`

function payload(data: unknown, refuse: (issues: EventIssue[]) => never): string | undefined {
  try {
    return toJson(data)
  } catch (error) {
    return refuse([{ path: ['data'], message: error instanceof Error ? error.message : String(error) }])
  }
}

function toColumns(event: EventDefinition, input: EventAttributes, text: string | undefined): OutboxRow {
  const row: OutboxRow = {
    id: input.id?.toLowerCase() ?? newId(),
    stream: event.stream,
    type: event.type,
    subject: input.subject ?? null,
    data: text === undefined ? null : new JsonText(text),
    schema_version: event.version,
    correlation_id: input.correlationId ?? null,
    causation_id: input.causationId ?? null,
    headers: definedHeaders(input.headers),
  }
  if (input.time) row.created_at = input.time
  return row
}

/** Times, numbers and lengths of a row as Postgres sends it to the relay, which measures all of it: what fits here, fits there. */
const REST_OF_ROW = 256

/** The size of an event as `maxBytes` limits it. */
export function bytesOf(row: OutboxRow): number {
  const texts = [row.data, row.id, row.stream, row.type, row.subject, row.correlation_id, row.causation_id]
  const bytes = texts.reduce((sum: number, text) => sum + (text === null ? 0 : Buffer.byteLength(String(text))), 0)
  return bytes + Buffer.byteLength(JSON.stringify(row.headers)) + REST_OF_ROW
}
