import { ATTRIBUTES, HEADER_NAME } from './names.js'
import { POSITION_BYTES } from './position.js'
import type { Shape } from './shape.js'
import { type EventSink, type RowColumns, textOf } from './sink.js'

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

/**
 * Writes the rows of one source, each as the fields of a stream entry: CloudEvents 1.0 attributes, flat, null ones left out.
 * On the hot path: values go as bytes from the row to the event. Texts are made only of what decides: of headers, of a
 * time in an unusual form, of data that the server has not checked.
 */
export class Envelope {
  /** By which of the optional columns are there; without headers. */
  readonly #shapes: Shape[]
  readonly #source: string
  readonly #time = Buffer.from(RFC_TIME)

  constructor(source: string) {
    this.#source = source
    this.#shapes = Array.from({ length: 1 << OPTIONAL.length }, (_, present) => this.#shape(present, []))
  }

  /**
   * Gives an event to `sink` as append.lua wants it: position, id, shape, values. Says why where the row cannot be
   * published, and gives nothing then. `commitTime`, in milliseconds, stands in where the table has no time of its own.
   * `dataIsJson`: the server has checked it; other data is parsed, since consumers are told that it is JSON.
   */
  push(
    sink: EventSink,
    row: RowColumns,
    position: Buffer,
    commitTime: number,
    dataIsJson: boolean,
  ): string | undefined {
    const { data, starts, ends } = row
    if (isEmpty(row, Column.id)) return 'expected an id, found none'
    if (isEmpty(row, Column.type)) return 'expected a type, found none'
    // Undefined: it is in `#time`.
    const time = this.#readTime(row, commitTime)
    if (time === null) return `expected a time with a year of four digits, found ${textOf(row, Column.time)}`
    if (!dataIsJson && (starts[Column.data] as number) >= 0 && !isJson(textOf(row, Column.data) as string))
      return 'expected data as JSON, found text that is not JSON'
    const headers = hasHeaders(row) ? readHeaders(textOf(row, Column.headers) as string) : undefined
    if (typeof headers === 'string') return headers

    let present = 0
    for (let i = 0; i < OPTIONAL.length; i++) if ((starts[OPTIONAL[i] as number] as number) >= 0) present |= 1 << i
    sink.bytes(position, 0, POSITION_BYTES)
    sink.bytes(data, starts[Column.id] as number, ends[Column.id] as number)
    sink.shape(headers ? this.#shape(present, Object.keys(headers)) : (this.#shapes[present] as Shape))
    sink.bytes(data, starts[Column.type] as number, ends[Column.type] as number)
    if (time === undefined) sink.bytes(this.#time, 0, TIME_BYTES)
    else sink.text(time)
    for (let i = 0; i < OPTIONAL.length; i++) {
      const column = OPTIONAL[i] as number
      if (column === Column.data && headers) for (const value of Object.values(headers)) sink.text(value)
      if ((present & (1 << i)) !== 0) sink.bytes(data, starts[column] as number, ends[column] as number)
    }
    return undefined
  }

  /** The time of an event as text; undefined where it was read into `#time`, null where it cannot be said. */
  #readTime(row: RowColumns, commitTime: number): string | undefined | null {
    const start = row.starts[Column.time] as number
    if (start < 0) return new Date(commitTime).toISOString().replace('Z', '000Z')
    if (readUsualTime(row.data, start, row.ends[Column.time] as number, this.#time)) return undefined
    return eventTime(textOf(row, Column.time) as string) ?? null
  }

  #shape(present: number, headers: string[]): Shape {
    const lines = ['specversion=1.0', 'id<id', `source=${this.#source}`, 'type', 'time']
    if (present & (1 << 0)) lines.push('subject')
    if (present & (1 << 1)) lines.push('schemaversion')
    if (present & (1 << 2)) lines.push('correlationid')
    if (present & (1 << 3)) lines.push('causationid')
    lines.push(...headers, 'sequence<position')
    if (present & (1 << 4)) lines.push('datacontenttype=application/json', 'data')
    return lines.join('\n')
  }
}

/** The columns that may be null, in the order of their values: a bit each. Headers stand before data. */
const OPTIONAL: readonly number[] = [
  Column.subject,
  Column.schemaVersion,
  Column.correlationId,
  Column.causationId,
  Column.data,
]

const isEmpty = ({ starts, ends }: RowColumns, column: number): boolean =>
  (starts[column] as number) < 0 || starts[column] === ends[column]

/** Anything but null and the usual `{}`. */
function hasHeaders({ data, starts, ends }: RowColumns): boolean {
  const start = starts[Column.headers] as number
  if (start < 0) return false
  return (ends[Column.headers] as number) - start !== 2 || data[start] !== 0x7b || data[start + 1] !== 0x7d
}

/** `2026-11-23T20:00:00.123456Z` */
const TIME_BYTES = 27
/** The usual form of a time in Postgres, and the same as RFC 3339; 0 stands for a digit. */
const USUAL_TIME = Buffer.from('0000-00-00 00:00:00.000000+00')
const RFC_TIME = Buffer.from('0000-00-00T00:00:00.000000Z')

/** Writes a time of the usual form into `time`; false for any other. Pure, as `eventTime` has it, without a text. */
function readUsualTime(data: Buffer, start: number, end: number, time: Buffer): boolean {
  if (end - start !== USUAL_TIME.length) return false
  for (let i = 0; i < TIME_BYTES - 1; i++) {
    const byte = data[start + i] as number
    if (USUAL_TIME[i] !== 0x30) {
      if (byte !== USUAL_TIME[i]) return false
    } else if (byte < 0x30 || byte > 0x39) return false
    else time[i] = byte
  }
  return data[end - 3] === 0x2b && data[end - 2] === 0x30 && data[end - 1] === 0x30
}

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
