import type { StandardSchemaV1 } from '@standard-schema/spec'
import { parseSize } from '../base/units.js'
import { EventError, type EventIssue } from './error.js'
import { STREAM_NAME } from './names.js'
import { textIssue } from './text.js'

/** 1 MiB, as the relay's own limit is by default. */
const DEFAULT_MAX_BYTES = 1_048_576

/** What a Postgres integer holds. */
const MAX_VERSION = 2_147_483_647

/** The definition of an event, made by `defineEvent`. The code that publishes the event and the code that handles it share it. */
export interface EventDefinition<
  Schema extends StandardSchemaV1 = StandardSchemaV1,
  Type extends string = string,
  Version extends number = number,
> {
  readonly stream: string
  readonly type: Type
  readonly version: Version
  readonly data: Schema
  /** The largest event, in bytes. */
  readonly maxBytes: number
}

/** The type of `data` in `publish` and `toRow`: the input of the schema. */
export type EventInputData<Event extends EventDefinition> = StandardSchemaV1.InferInput<Event['data']>

/** The type of `event.data` in a handler: the output of the schema. */
export type EventOutputData<Event extends EventDefinition> = StandardSchemaV1.InferOutput<Event['data']>

export interface EventOptions<Schema extends StandardSchemaV1, Type extends string, Version extends number> {
  /** The Redis stream: a letter or digit, then letters, digits, dots, underscores, hyphens; at most 200 characters. It must not begin with `outrider`. */
  stream: string
  /** CloudEvents type, such as `order.placed`: 1 to 255 characters. */
  type: Type
  /** Version of the payload's schema: a whole number from 1. */
  version: Version
  /**
   * The schema of the payload: any Standard Schema (zod, valibot, arktype …). It validates parsed JSON in the producer
   * and in the consumer: see `publish`.
   */
  data: Schema
  /**
   * The largest event: payload, headers and names in UTF-8, and 256 bytes for the rest of the row. A number of bytes, or a
   * text such as `512KiB`. Default 1 MiB. If you raise it, raise OUTRIDER_MAX_EVENT_BYTES of the relay, too, and run
   * `outrider setup` again.
   */
  maxBytes?: number | string | undefined
}

/**
 * Defines a kind of event.
 *
 *     const OrderPlaced = defineEvent({
 *       stream: 'orders', type: 'order.placed', version: 1, data: z.object({ total: z.number() }),
 *     })
 *
 * Throws an EventError that lists every problem of the definition.
 */
export function defineEvent<
  Schema extends StandardSchemaV1,
  const Type extends string = string,
  const Version extends number = number,
>(options: EventOptions<Schema, Type, Version>): EventDefinition<Schema, Type, Version> {
  const { stream, type, version, data } = options
  const maxBytes = options.maxBytes === undefined ? DEFAULT_MAX_BYTES : (parseSize(options.maxBytes) ?? 0)
  const issues: EventIssue[] = []
  const expect = (path: string, holds: boolean, expected: string, found: unknown) => {
    if (!holds) issues.push({ path: [path], message: `Expected ${expected}, found ${show(found)}` })
  }
  expect('stream', typeof stream === 'string' && STREAM_NAME.test(stream), STREAM_RULE, stream)
  const typeIssue = textIssue('type', type, 255)
  if (typeIssue) issues.push(typeIssue)
  expect('version', isVersion(version), `a whole number from 1 to ${MAX_VERSION}`, version)
  expect('data', isStandardSchema(data), 'a Standard Schema, such as z.object({ … }) of zod', data)
  expect('maxBytes', maxBytes >= 1, 'a whole number of bytes from 1, or a size such as 512KiB', options.maxBytes)
  if (issues.length > 0) {
    throw new EventError('This event cannot be defined', issues, 'Correct the call of defineEvent.')
  }
  return Object.freeze({ stream, type, version, data, maxBytes })
}

const STREAM_RULE =
  'a letter or digit, then letters, digits, dots, underscores or hyphens, 200 at most, not beginning with "outrider"'

const isVersion = (value: unknown): boolean =>
  Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= MAX_VERSION

// Some libraries' schemas are functions (arktype).
const isStandardSchema = (value: unknown): boolean =>
  ((typeof value === 'object' && value !== null) || typeof value === 'function') &&
  typeof (value as Partial<StandardSchemaV1>)['~standard']?.validate === 'function'

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  if (typeof value === 'number') return String(value)
  return value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value
}
