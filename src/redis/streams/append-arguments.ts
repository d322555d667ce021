import { headKey } from '../../event/names.js'
import { POSITION_BYTES, type Position, ZERO_POSITION } from '../../event/position.js'
import { SAME_SHAPE, type Shape } from '../../event/shape.js'
import type { EventSink } from '../../event/sink.js'
import { BufferPool } from '../client/buffer-pool.js'

/** Bytes for `*N\r\n`. */
const ROOM = 16
/** An argument of up to this size is copied byte by byte: a call of `copy` takes as long as 32 bytes (90 ns). */
const SHORT_BYTES = 32
/** What surrounds the bytes of an argument: `$`, up to ten digits, two line ends. */
const AROUND_BYTES = 15
/** What a batch may take before it has events: there may be thousands of streams. */
const MAX_RESERVED_BYTES = 65_536
const CRLF = '\r\n'
const NOTHING = Buffer.alloc(0)
// Of all batches without an event: never changed. An array that is pushed to reserves room for 17, and many batches have one event.
const NO_STARTS: number[] = []
const NO_SHAPES: Shape[] = []
const SAME = Buffer.from(SAME_SHAPE)

/** Enough for all that is in flight by default, twice its size as buffers may be. */
const pool = new BufferPool(16 * 1_048_576)

/** Of all batches of one stream: what stands before the events. */
export class AppendTarget {
  readonly args: readonly string[]
  readonly prefix: Buffer
  /** How large the last batch became. */
  size = 0

  constructor(sha: string, key: string, lineage: string, session: string) {
    this.args = [sha, '2', key, headKey(key, lineage), session, '', ZERO_POSITION]
    this.prefix = Buffer.from(['evalsha', ...this.args].map(encodeText).join(''))
  }
}

/**
 * The command that appends a batch, RESP-encoded in one buffer as its events are added:
 *
 *     room  *N  $7 evalsha  $40 sha  $1 2  $ stream  $ head  $ session  $0 expected  $34 previous | event  event …
 *           └ at the end of the room, when N is known                                    └ of fixed size, filled in when it is sent
 *
 * https://redis.io/docs/latest/develop/reference/protocol-spec/
 */
export class AppendArguments implements EventSink {
  readonly target: AppendTarget
  #buffer: Buffer
  #end: number
  /** Arguments of all events. */
  #count = 0
  /** Where each event begins, and its shape. */
  #starts = NO_STARTS
  #shapes = NO_SHAPES
  /** Where the next event begins. */
  #next: number
  /** What it was sent with: someone may still read the buffer then. */
  #sent: Position | undefined
  /** Two connections were given the buffer, and the reply of one says nothing of the other. */
  #sentAgain = false

  constructor(target: AppendTarget) {
    this.target = target
    const { prefix } = target
    this.#end = ROOM + prefix.length
    this.#next = this.#end
    this.#buffer = pool.take(Math.max(this.#end, target.size))
    prefix.copy(this.#buffer, ROOM)
  }

  /** The arguments that name the keys, for a client that routes by them. */
  get routing(): readonly string[] {
    return this.target.args
  }

  get events(): number {
    return this.#starts.length
  }

  /** Bytes of its buffer. */
  get capacity(): number {
    return this.#buffer.length
  }

  /** The position of the last event; zero before the first. */
  get last(): Position {
    const start = this.#starts.at(-1)
    if (start === undefined) return ZERO_POSITION
    const at = start + `$${POSITION_BYTES}${CRLF}`.length
    return this.#buffer.toString('latin1', at, at + POSITION_BYTES)
  }

  /** One event: position, id, shape, values. */
  push(position: Position, id: string, shape: Shape, ...values: string[]): void {
    this.text(position)
    this.text(id)
    this.shape(shape)
    for (const value of values) this.text(value)
  }

  /** Everything of one event was given. */
  endEvent(): void {
    if (this.#starts === NO_STARTS) this.#starts = [this.#next]
    else this.#starts.push(this.#next)
    this.#next = this.#end
  }

  text(value: string): void {
    const bytes = Buffer.byteLength(value)
    this.#begin(bytes)
    this.#buffer.write(value, this.#end, bytes)
    this.#finish(bytes)
  }

  bytes(data: Buffer, start: number, end: number): void {
    const bytes = end - start
    this.#begin(bytes)
    const buffer = this.#buffer
    if (bytes > SHORT_BYTES) data.copy(buffer, this.#end, start, end)
    else for (let from = start, to = this.#end; from < end; from++, to++) buffer[to] = data[from] as number
    this.#finish(bytes)
  }

  /** Most events of a batch share it, and it is a quarter of an event with 250 bytes of data. */
  shape(shape: Shape): void {
    if (shape === this.#shapes[this.#shapes.length - 1]) this.bytes(SAME, 0, SAME.length)
    else this.text(shape)
    if (this.#shapes === NO_SHAPES) this.#shapes = [shape]
    else this.#shapes.push(shape)
  }

  /** Takes an event out: its position, id, shape and values. What is left is as if it had never been there. */
  take(index: number): [Position, string, Shape, ...string[]] {
    const start = this.#starts[index] as number
    const end = this.#starts[index + 1] ?? this.#next
    const [position, id, , ...values] = decode(this.#buffer, start, end)
    const [shape] = this.#shapes.splice(index, 1)
    this.#starts.splice(index, 1)
    this.#count -= 3 + values.length
    this.#splice(index, start, end, NOTHING)
    if (index < this.#starts.length) this.#restateShape(index)
    return [position as Position, id as string, shape as Shape, ...values]
  }

  /** Another event stands before this one. */
  #restateShape(index: number): void {
    const shape = this.#shapes[index] as Shape
    const [start, end] = thirdOf(this.#buffer, this.#starts[index] as number)
    const text = index > 0 && shape === this.#shapes[index - 1] ? SAME_SHAPE : shape
    this.#splice(index + 1, start, end, Buffer.from(encodeText(text)))
  }

  /** Puts `bytes` in the place of those from `start` to `end`; the events from `index` on stand behind them. */
  #splice(index: number, start: number, end: number, bytes: Buffer): void {
    const change = bytes.length - (end - start)
    if (this.#sent !== undefined || this.#end + change > this.#buffer.length)
      this.#replace(this.#end + Math.max(change, 0))
    this.#buffer.copyWithin(start + bytes.length, end, this.#end)
    bytes.copy(this.#buffer, start)
    for (let i = index; i < this.#starts.length; i++) this.#starts[i]! += change
    this.#end += change
    this.#next += change
  }

  /** The command, to be written as it is. */
  encode(previous: Position): Buffer {
    const { prefix } = this.target
    // What an earlier connection still holds must not change: its events would be chained to others than was meant.
    if (this.#sent !== undefined && this.#sent !== previous) this.#replace(this.#end)
    if (this.#sent !== undefined) this.#sentAgain = true
    this.#sent = previous
    this.#buffer.write(previous, ROOM + prefix.length - POSITION_BYTES - CRLF.length, 'latin1')
    const head = `*${1 + this.target.args.length + this.#count}${CRLF}`
    const start = ROOM - head.length
    this.#buffer.write(head, start, 'latin1')
    return this.#buffer.subarray(start, this.#end)
  }

  /** Redis has answered, so that no connection reads the buffer. It must not be used again. */
  release(): void {
    this.target.size = Math.min(this.#end, MAX_RESERVED_BYTES)
    if (!this.#sentAgain) pool.give(this.#buffer)
  }

  #begin(bytes: number): void {
    const needed = this.#end + bytes + AROUND_BYTES
    if (needed > this.#buffer.length || this.#sent !== undefined) this.#replace(needed)
    const buffer = this.#buffer
    buffer[this.#end] = 0x24
    const end = writeDecimal(buffer, this.#end + 1, bytes)
    buffer[end] = 0x0d
    buffer[end + 1] = 0x0a
    this.#end = end + 2
  }

  #finish(bytes: number): void {
    const buffer = this.#buffer
    const end = this.#end + bytes
    buffer[end] = 0x0d
    buffer[end + 1] = 0x0a
    this.#end = end + 2
    this.#count += 1
  }

  /** Continues in a buffer of at least so many bytes. Of one that was sent, an earlier connection may still read. */
  #replace(bytes: number): void {
    const former = this.#buffer
    // By doubling: each argument of a batch above the pool's largest buffer would copy all that is there.
    this.#buffer = pool.take(bytes > former.length ? Math.max(bytes, 2 * former.length) : bytes)
    former.copy(this.#buffer, 0, 0, this.#end)
    if (this.#sent === undefined) pool.give(former)
    this.#sent = undefined
    this.#sentAgain = false
  }
}

function writeDecimal(buffer: Buffer, start: number, value: number): number {
  let end = start + 1
  for (let limit = 10; value >= limit; limit *= 10) end += 1
  for (let at = end - 1, left = value; at >= start; at--) {
    const rest = Math.trunc(left / 10)
    buffer[at] = 0x30 + left - rest * 10
    left = rest
  }
  return end
}

const encodeText = (text: string): string => `$${Buffer.byteLength(text)}${CRLF}${text}${CRLF}`

/** Where the third of the arguments from `at` on begins and ends. */
function thirdOf(buffer: Buffer, at: number): [start: number, end: number] {
  let start = at
  let end = at
  for (let n = 0; n < 3; n++) {
    start = end
    const line = buffer.indexOf(CRLF, start)
    end = line + CRLF.length + Number(buffer.toString('latin1', start + 1, line)) + CRLF.length
  }
  return [start, end]
}

function decode(buffer: Buffer, start: number, end: number): string[] {
  const args: string[] = []
  for (let at = start; at < end; ) {
    const line = buffer.indexOf(CRLF, at)
    const from = line + CRLF.length
    const to = from + Number(buffer.toString('latin1', at + 1, line))
    args.push(buffer.toString('utf8', from, to))
    at = to + CRLF.length
  }
  return args
}
