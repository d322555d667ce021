import { POSITION_BYTES, type Position, ZERO_POSITION } from './position.js'

const DIGITS = Buffer.from('0123456789abcdef')
const LSN_AT = 9
const INDEX_AT = 26

/** The position of one row after the other, as bytes: a text is made only where someone looks at it. */
export class PositionBytes {
  readonly bytes = Buffer.from(ZERO_POSITION)

  /** A transaction: the LSN of its commit record are the 8 bytes of `data` from `start`. */
  begin(timeline: number, data: Buffer, start: number): void {
    writeHex(this.bytes, 0, timeline)
    writeHex(this.bytes, LSN_AT, data.readUInt32BE(start))
    writeHex(this.bytes, LSN_AT + 8, data.readUInt32BE(start + 4))
  }

  /** A row of it, counted from 0. */
  row(index: number): void {
    writeHex(this.bytes, INDEX_AT, index)
  }

  toString(): Position {
    return this.bytes.toString('latin1', 0, POSITION_BYTES)
  }
}

function writeHex(to: Buffer, start: number, value: number): void {
  for (let at = start + 7, left = value; at >= start; at--, left >>>= 4) to[at] = DIGITS[left & 15] as number
}
