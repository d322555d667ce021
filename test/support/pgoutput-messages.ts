import { locateInsert, NULL_AT, type Relation } from '../../src/postgres/replication/pgoutput.js'

/**
 * What pgoutput writes, byte for byte, protocol version 1: to show a decoder messages that a server would send.
 * https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 */

export function beginMessage(lsn: bigint, postgresMicroseconds: bigint, xid = 1): Buffer {
  const message = Buffer.alloc(21)
  message.write('B')
  message.writeBigUInt64BE(lsn, 1)
  message.writeBigInt64BE(postgresMicroseconds, 9)
  message.writeUInt32BE(xid, 17)
  return message
}

export function commitMessage(lsn: bigint, endLsn: bigint, postgresMicroseconds = 0n): Buffer {
  const message = Buffer.alloc(26)
  message.write('C')
  message.writeBigUInt64BE(lsn, 2)
  message.writeBigUInt64BE(endLsn, 10)
  message.writeBigInt64BE(postgresMicroseconds, 18)
  return message
}

export function relationMessage({ oid, schema, table, columns, types }: Relation): Buffer {
  return Buffer.concat([
    Buffer.from('R'),
    uint32(oid),
    Buffer.from(`${schema}\0${table}\0d`),
    uint16(columns.length),
    // Flags, name, type oid, type modifier (-1).
    ...columns.map((column, i) =>
      Buffer.concat([Buffer.from(`\x01${column}\0`), uint32(types[i] ?? 0), uint32(0xffffffff)]),
    ),
  ])
}

export function insertMessage(oid: number, values: readonly (string | null)[]): Buffer {
  return Buffer.concat([Buffer.from('I'), uint32(oid), Buffer.from('N'), uint16(values.length), ...values.map(column)])
}

function column(value: string | null): Buffer {
  if (value === null) return Buffer.from('n')
  const text = Buffer.from(value)
  return Buffer.concat([Buffer.from('t'), uint32(text.length), text])
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** Reads the columns of an Insert as text into the slots that they are for; slots that no column fills are left as they were. */
export function readInsert(message: Buffer, slots: Int8Array, into: (string | null)[]): void {
  const starts = new Int32Array(slots.length).fill(NULL_AT - 1)
  const ends = new Int32Array(slots.length)
  locateInsert(message, 0, message.length, slots, starts, ends)
  starts.forEach((start, slot) => {
    if (start >= 0) into[slot] = message.toString('utf8', start, ends[slot])
    else if (start === NULL_AT) into[slot] = null
  })
}
