import type { EventIssue } from '../event/error.js'
import { ATTRIBUTES, HEADER_NAME, UUID } from '../event/names.js'
import { textIssue, UNSTORABLE, unstorable } from '../event/text.js'

/** The attributes of an event, without its payload. */
export interface EventAttributes {
  /** The entity that the event is about: 1 to 1,024 characters. It selects the partition, and is the key of ordered groups. */
  subject?: string | null | undefined
  /** A UUID, by which consumers deduplicate. Default: a new one of version 7. */
  id?: string | undefined
  /** The business process that the event belongs to, such as one order, across services: 1 to 255 characters. */
  correlationId?: string | null | undefined
  /** The event or command that caused this one: 1 to 255 characters. */
  causationId?: string | null | undefined
  /**
   * Further CloudEvents attributes, such as `traceparent`: at most 32, 8 KiB as JSON; names of 1 to 40 lower-case
   * letters and digits, except the names that Outrider writes itself. Undefined values are left out.
   */
  headers?: Readonly<Record<string, string | undefined>> | undefined
  /** CloudEvents time, of the years 1 to 9999. Default: Postgres' clock at the insert. */
  time?: Date | undefined
}

const KEYS = ['subject', 'data', 'id', 'correlationId', 'causationId', 'headers', 'time']
const MAX_HEADERS = 32
const MAX_HEADER_BYTES = 8192
const YEAR_1 = Date.parse('0001-01-01T00:00:00Z')
const YEAR_10000 = Date.parse('+010000-01-01T00:00:00Z')

/**
 * Everything in which these attributes break the outbox' limits, which stand as constraints in `sql/001-outbox.sql`, too.
 * Checked here first, because a constraint's violation would abort the caller's transaction.
 */
export function attributeIssues(input: EventAttributes): EventIssue[] {
  const { subject, id, correlationId, causationId, headers, time } = input
  return [
    ...Object.keys(input)
      .filter((key) => !KEYS.includes(key))
      .map((key) => ({ path: [key], message: `Expected one of ${KEYS.join(', ')}, found another name` })),
    subject == null ? undefined : textIssue('subject', subject, 1024),
    correlationId == null ? undefined : textIssue('correlationId', correlationId, 255),
    causationId == null ? undefined : textIssue('causationId', causationId, 255),
    id === undefined || UUID.test(id) ? undefined : { path: ['id'], message: 'Expected a UUID, found something else' },
    ...(headers === undefined ? [] : headerIssues(headers)),
    time === undefined || isStorable(time) ? undefined : { path: ['time'], message: TIME_RULE },
  ].filter((issue) => issue !== undefined)
}

/** The headers that have a value. */
export function definedHeaders(headers: EventAttributes['headers'] = {}): Record<string, string> {
  const defined: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) defined[name] = value
  return defined
}

function headerIssues(headers: Readonly<Record<string, unknown>>): EventIssue[] {
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) {
    return [{ path: ['headers'], message: 'Expected an object of strings, found something else' }]
  }
  const entries = Object.entries(headers).filter(([, value]) => value !== undefined)
  const issues = entries.flatMap(([name, value]): EventIssue[] => {
    const message = headerIssue(name, value)
    return message === undefined ? [] : [{ path: ['headers', name], message }]
  })
  const limit = (max: number, unit: string, found: number) => {
    if (found > max) issues.push({ path: ['headers'], message: `Expected at most ${max} ${unit}, found ${found}` })
  }
  limit(MAX_HEADERS, 'headers', entries.length)
  limit(MAX_HEADER_BYTES, 'bytes as JSON', Buffer.byteLength(JSON.stringify(Object.fromEntries(entries))))
  return issues
}

function headerIssue(name: string, value: unknown): string | undefined {
  if (!HEADER_NAME.test(name)) return 'Expected a name of 1 to 40 lower-case letters and digits, found another'
  if (ATTRIBUTES.has(name)) return 'Expected a name that Outrider does not write itself, found one that it does'
  if (typeof value !== 'string') return `Expected a string, found ${value === null ? 'null' : typeof value}`
  return unstorable(value) ? UNSTORABLE : undefined
}

const TIME_RULE = 'Expected a valid Date of the years 1 to 9999, found something else'

const isStorable = (time: unknown): boolean => {
  // An invalid date's time is NaN, which neither comparison holds for.
  const millis = time instanceof Date ? time.getTime() : Number.NaN
  return millis >= YEAR_1 && millis < YEAR_10000
}
