/**
 * The first byte of a message of the output plugin pgoutput, protocol version 1. Types that are not listed (Origin, Type, Update,
 * Delete, Truncate …) are passed over. https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 *
 * What follows reads messages in place: `data` from `start` on, where a message may lie among others, as a socket brought them. A
 * tuple is walked once, for the columns that are needed; no object is made for a column or a row.
 */
export const MessageType = { begin: 0x42, commit: 0x43, relation: 0x52, insert: 0x49 } as const

/** A table as the server describes it before its first row, and again whenever its definition changed. */
export interface Relation {
  oid: number
  schema: string
  table: string
  columns: string[]
  /** The oid of each column's type, in the order of `columns`. */
  types: number[]
}

/** Types whose values the server has checked to be JSON. https://www.postgresql.org/docs/current/datatype-json.html */
export const JSON_TYPES: readonly number[] = [114, 3802] // json, jsonb

const COLUMN_NULL = 0x6e
const COLUMN_TEXT = 0x74

/** Postgres counts microseconds from 2000-01-01. */
const POSTGRES_EPOCH_MS = 946_684_800_000

/** LSN of the commit record: the first field of Begin, and where the transaction stands in the order of commits. */
export const beginLsn = (data: Buffer, start = 0): bigint => data.readBigUInt64BE(start + BEGIN_LSN_AT)

/** Where it stands in Begin. */
export const BEGIN_LSN_AT = 1

/** Time of the commit in milliseconds since 1970, from Begin. */
export const beginTime = (data: Buffer, start = 0): number =>
  Number(data.readBigInt64BE(start + 9)) / 1000 + POSTGRES_EPOCH_MS

/** The transaction's id without its epoch, from Begin; of a prepared transaction its own. */
export const beginXid = (data: Buffer, start = 0): number => data.readUInt32BE(start + 17)

/** End of the commit record, from Commit: what is confirmed, exactly, when every row before it is safe. */
export const commitEndLsn = (data: Buffer, start = 0): bigint => data.readBigUInt64BE(start + 10)

/** The table a row belongs to, from Insert. */
export const insertOid = (data: Buffer, start = 0): number => data.readUInt32BE(start + 1)

export function readRelation(message: Buffer): Relation {
  let at = 5
  const text = () => {
    const end = message.indexOf(0, at)
    if (end < 0) throw new RangeError('Expected a zero byte at the end of a name in a Relation message, found none.')
    const value = message.toString('utf8', at, end)
    at = end + 1
    return value
  }
  const oid = message.readUInt32BE(1)
  const schema = text()
  const table = text()
  at += 1 // replica identity
  const count = message.readUInt16BE(at)
  at += 2
  const columns: string[] = []
  const types: number[] = []
  for (let i = 0; i < count; i++) {
    at += 1 // flags
    columns.push(text())
    types.push(message.readUInt32BE(at))
    at += 8 // type oid, type modifier
  }
  if (at > message.length)
    throw new RangeError('Expected a Relation message to end with its columns, found it cut off.')
  return { oid, schema, table, columns, types }
}

/** In `starts`: the column is null. */
export const NULL_AT = -1

/**
 * Walks the new tuple of an Insert, whose message is the bytes of `data` from `start` to `end`, and says where the columns
 * lie. `slots[i]` says where column i goes, -1 that no one wants it. Slots that no column fills are left as they were.
 */
export function locateInsert(
  data: Buffer,
  start: number,
  end: number,
  slots: Int8Array,
  starts: Int32Array,
  ends: Int32Array,
): void {
  // 'I', oid, 'N', count of columns, columns.
  if (start + 8 > end) throw new RangeError('Expected an Insert message with a count of columns, found it cut off.')
  const count = data.readUInt16BE(start + 6)
  if (count !== slots.length) {
    throw new RangeError(`Expected a row of ${slots.length} columns as its Relation message said, found ${count}.`)
  }
  let at = start + 8
  for (let i = 0; i < count; i++) {
    const slot = slots[i] as number
    const kind = at < end ? data[at] : undefined
    at += 1
    if (kind === COLUMN_TEXT) {
      const from = at + 4
      const to = from > end ? from : from + data.readUInt32BE(at)
      if (from > end || to > end) {
        throw new RangeError(`Expected column ${i} to end within its row, found it cut off.`)
      }
      if (slot >= 0) {
        starts[slot] = from
        ends[slot] = to
      }
      at = to
    } else if (kind === COLUMN_NULL) {
      if (slot >= 0) starts[slot] = NULL_AT
    } else {
      throw new RangeError(`Expected column ${i} of an inserted row as text or null, found kind ${kind}.`)
    }
  }
}
