import { randomUUID } from 'node:crypto'

/** The attributes of one event; those that are left out have defaults. */
export interface EntryInput {
  id?: string
  source?: string
  type?: string
  version?: number
  subject?: string
  time?: Date
  more?: Record<string, string>
}

/** The fields that the relay appends for an event with this payload, names and values in turn. */
export function entryOf(data: unknown, input: EntryInput = {}): string[] {
  const { id = randomUUID(), source = '/shop', type = 'thing.happened', version = 1, subject } = input
  const { time = new Date(), more = {} } = input
  return [
    ...['specversion', '1.0', 'id', id, 'source', source, 'type', type, 'time', time.toISOString()],
    ...(subject === undefined ? [] : ['subject', subject]),
    ...['schemaversion', String(version)],
    ...Object.entries(more).flat(),
    ...(data === undefined ? [] : ['datacontenttype', 'application/json', 'data', JSON.stringify(data)]),
  ]
}

/** The fields of an entry as Redis returns them, by name. */
export function fieldsOf(pairs: readonly string[]): Record<string, string> {
  const fields: Record<string, string> = {}
  for (let n = 0; n < pairs.length; n += 2) fields[pairs[n] as string] = pairs[n + 1] as string
  return fields
}
