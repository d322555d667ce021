import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describeIssues } from '../../event/error.js'
import { payloadOf } from '../event.js'
import type { Delivery } from './delivery.js'

/** Parses the payload of a delivery. Throws a MalformedError. */
export function parsePayload({ fields, id }: Delivery): unknown {
  if (!fields) throw new Error(`Expected the payload of entry ${id} to be loaded, found none.`)
  return payloadOf(fields)
}

/** The data as the schema makes it, or the issues as a text. */
export type Validated = { value: unknown } | { invalid: string }

/** Validates parsed data with the schema of the event. Throws, or rejects, with what the schema throws. */
export function validateData({ found, id }: Delivery, data: unknown): Validated | Promise<Validated> {
  if (!('route' in found)) throw new Error(`Expected entry ${id} to have a handler, found none.`)
  const result = found.definition.data['~standard'].validate(data)
  // Most schemas have their result at once.
  return 'then' in result ? result.then(validatedOf) : validatedOf(result)
}

const validatedOf = (result: StandardSchemaV1.Result<unknown>): Validated =>
  result.issues ? { invalid: describeIssues(result.issues) } : { value: result.value }
