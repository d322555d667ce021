import { randomUUID } from 'node:crypto'
import { z } from 'zod'
import { defineEvent } from '../../src/index.js'

export const GROUP = 'billing'

/** The kind of event of most tests of consumers. */
export const Happened = defineEvent({
  stream: 'things',
  type: 'thing.happened',
  version: 1,
  data: z.object({ n: z.number() }),
})

/** What one entry is given beside its payload. */
export interface EntryInput {
  id?: string
  source?: string
  type?: string
  version?: number
  subject?: string
  time?: Date
  more?: Record<string, string>
}

export const fieldsOf = (fields: readonly string[]): Record<string, string> =>
  Object.fromEntries(fields.flatMap((name, n) => (n % 2 === 0 ? [[name, fields[n + 1] as string]] : [])))

/** What the relay would append for an event. */
export function entryOf(data: unknown, input: EntryInput = {}): string[] {
  const { id = randomUUID(), source = '/shop', type = Happened.type, version = 1, subject, time = new Date() } = input
  return [
    ...['specversion', '1.0', 'id', id, 'source', source, 'type', type, 'time', time.toISOString()],
    ...(subject === undefined ? [] : ['subject', subject]),
    ...['schemaversion', String(version)],
    ...Object.entries(input.more ?? {}).flat(),
    ...(data === undefined ? [] : ['datacontenttype', 'application/json', 'data', JSON.stringify(data)]),
  ]
}
