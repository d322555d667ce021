import { ATTRIBUTES, HEADER_NAME } from './names.js'
import type { Position } from './position.js'
import type { Shape } from './shape.js'

/**
 * A row of the outbox as the fields of a stream entry: CloudEvents 1.0 attributes, flat, null ones left out.
 * Pure, and on the hot path: strings are pushed onto an array that is sent as it is.
 */

/** Where each column of the mapping stands among a row's values. Columns of the stream's template follow behind. */
export const Column = {
  id: 0,
  type: 1,
  subject: 2,
  data: 3,
  schemaVersion: 4,
  correlationId: 5,
  causationId: 6,
  headers: 7,
  time: 8,
} as const

export const COLUMN_COUNT = 9

/** The values of one row by `Column`, in Postgres' text form. A column that the table lacks is null. */
export type RowValues = (string | null)[]

/** Writes the rows of one source. */
export class Envelope {
  /** By which of the optional columns are there; without headers. */
  readonly #shapes: Shape[]
  readonly #source: string

  constructor(source: string) {
    this.#source = source
    this.#shapes = Array.from({ length: Optional.all + 1 }, (_, present) => this.#shape(present, []))
  }

  /**
   * Pushes an event as publish.lua wants it: position, id, shape, values. Says why where the row cannot be published,
   * and pushes nothing then. `commitTime`, in milliseconds, stands in where the table has no time of its own.
   * `dataIsJson`: the server has checked it; other data is parsed, since consumers are told that it is JSON.
   */
  push(
    args: string[],
    values: RowValues,
    position: Position,
    commitTime: number,
    dataIsJson: boolean,
  ): string | undefined {
    const id = values[Column.id]
    const type = values[Column.type]
    if (!id) return 'expected an id, found none'
    if (!type) return 'expected a type, found none'
    const created = values[Column.time]
    const time = created == null ? new Date(commitTime).toISOString().replace('Z', '000Z') : eventTime(created)
    if (time === undefined) return `expected a time with a year of four digits, found ${created}`

    const data = values[Column.data]
    if (data != null && !dataIsJson && !isJson(data)) return 'expected data as JSON, found text that is not JSON'

    const shapeAt = args.push(position, id, '') - 1
    args.push(type, time)
    let present = 0
    const subject = values[Column.subject]
    if (subject != null) {
      args.push(subject)
      present |= Optional.subject
    }
    const schemaVersion = values[Column.schemaVersion]
    if (schemaVersion != null) {
      args.push(schemaVersion)
      present |= Optional.schemaVersion
    }
    const correlationId = values[Column.correlationId]
    if (correlationId != null) {
      args.push(correlationId)
      present |= Optional.correlationId
    }
    const causationId = values[Column.causationId]
    if (causationId != null) {
      args.push(causationId)
      present |= Optional.causationId
    }
    let names: string[] | undefined
    const headers = values[Column.headers]
    if (headers != null && headers !== '{}') {
      const found = readHeaders(headers)
      if (typeof found === 'string') {
        args.length = shapeAt - 2
        return found
      }
      names = Object.keys(found)
      args.push(...Object.values(found))
    }
    if (data != null) {
      args.push(data)
      present |= Optional.data
    }
    args[shapeAt] = names ? this.#shape(present, names) : (this.#shapes[present] as Shape)
    return undefined
  }

  #shape(present: number, headers: string[]): Shape {
    const lines = ['specversion=1.0', 'id<id', `source=${this.#source}`, 'type', 'time']
    if (present & Optional.subject) lines.push('subject')
    if (present & Optional.schemaVersion) lines.push('schemaversion')
    if (present & Optional.correlationId) lines.push('correlationid')
    if (present & Optional.causationId) lines.push('causationid')
    lines.push(...headers, 'sequence<position')
    if (present & Optional.data) lines.push('datacontenttype=application/json', 'data')
    return lines.join('\n')
  }
}

/** The columns that may be null, as bits. */
const Optional = { subject: 1, schemaVersion: 2, correlationId: 4, causationId: 8, data: 16, all: 31 } as const

/**
 * RFC 3339 in UTC with microseconds, from Postgres' ISO form under TimeZone UTC: `2026-11-23 20:00:00.1234+00`.
 * Undefined for what RFC 3339 cannot say: infinity, years before Christ or of five digits.
 */
export function eventTime(text: string): string | undefined {
  if (text.length === 29 && text.charCodeAt(19) === 0x2e && text.endsWith('+00')) {
    return `${text.slice(0, 10)}T${text.slice(11, 26)}Z`
  }
  const found = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(?:\+00)?$/.exec(text)
  return found ? `${found[1]}T${found[2]}.${(found[3] ?? '').padEnd(6, '0')}Z` : undefined
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** As the constraint of Outrider's own table has it; a mapped table may have none. */
const MOST_HEADERS = 32
const MOST_HEADER_TEXT = 8_192

/** The headers of a row, or why they cannot be published. */
function readHeaders(text: string): Record<string, string> | string {
  if (text.length > MOST_HEADER_TEXT)
    return `expected headers of at most ${MOST_HEADER_TEXT} characters, found ${text.length}`
  let headers: unknown
  try {
    headers = JSON.parse(text)
  } catch {
    return 'expected headers as a JSON object, found text that is not JSON'
  }
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) {
    return 'expected headers as a JSON object, found another kind of value'
  }
  const count = Object.keys(headers).length
  if (count > MOST_HEADERS) return `expected at most ${MOST_HEADERS} headers, found ${count}`
  for (const [name, value] of Object.entries(headers)) {
    if (!HEADER_NAME.test(name) || ATTRIBUTES.has(name)) {
      return `expected a header's name of 1 to 40 lower-case letters and digits that is no attribute, found ${JSON.stringify(name)}`
    }
    if (typeof value !== 'string') return `expected header ${name} as a string, found ${typeof value}`
  }
  return headers as Record<string, string>
}
