/**
 * Splits the bytes of a replication connection into protocol messages: a type, a length, a body.
 * https://www.postgresql.org/docs/current/protocol-message-formats.html
 *
 * CopyData carries the stream, and is handed over in place: no event, no object and no copy for a message that came in one
 * piece. Of a message in several pieces the first ones are carried over, in a buffer of the message's size: each byte is
 * copied once, however large the message and however small the pieces.
 */
export interface FrameHandlers {
  /** The body of a CopyData message: the bytes of `data` from `start` to `end`, valid during the call. */
  copyData(data: Buffer, start: number, end: number): void
  /** Any other message, whole. */
  other(message: Buffer): void
}

const COPY_DATA = 0x64
/** Type and length. */
const HEADER_BYTES = 5
/** A carry-over buffer of up to this size is kept for the next message. */
const KEPT_BYTES = 65_536

export class FrameSplitter {
  readonly #handlers: FrameHandlers
  #carried = Buffer.allocUnsafeSlow(KEPT_BYTES)
  /** Bytes of an incomplete message in `#carried`. */
  #length = 0

  constructor(handlers: FrameHandlers) {
    this.#handlers = handlers
  }

  /** Takes what one read of the socket brought. Throws what a handler throws, and on a length that no message has. */
  push(chunk: Buffer): void {
    let at = 0
    while (this.#length > 0 && at < chunk.length) at = this.#carry(chunk, at)
    while (at + HEADER_BYTES <= chunk.length) {
      const end = at + sizeOf(chunk, at)
      if (end > chunk.length) break
      this.#emit(chunk, at, end)
      at = end
    }
    while (at < chunk.length) at = this.#carry(chunk, at)
  }

  /** Carries over the next bytes of the header, then of the body; emits the message when it is whole. Returns where the chunk continues. */
  #carry(chunk: Buffer, start: number): number {
    const size = this.#length < HEADER_BYTES ? HEADER_BYTES : sizeOf(this.#carried, 0)
    const end = Math.min(start + size - this.#length, chunk.length)
    chunk.copy(this.#carried, this.#length, start, end)
    this.#length += end - start
    if (this.#length < HEADER_BYTES) return end
    const whole = sizeOf(this.#carried, 0)
    if (this.#length < whole) this.#makeRoom(whole)
    else this.#emitCarried(whole)
    return end
  }

  #emitCarried(size: number): void {
    const message = this.#carried
    this.#length = 0
    if (message.length > KEPT_BYTES) this.#carried = Buffer.allocUnsafeSlow(KEPT_BYTES)
    this.#emit(message, 0, size)
  }

  #makeRoom(size: number): void {
    if (size <= this.#carried.length) return
    const larger = Buffer.allocUnsafeSlow(size)
    this.#carried.copy(larger, 0, 0, this.#length)
    this.#carried = larger
  }

  #emit(data: Buffer, start: number, end: number): void {
    if (data[start] === COPY_DATA) this.#handlers.copyData(data, start + HEADER_BYTES, end)
    else this.#handlers.other(data.subarray(start, end))
  }
}

/** Bytes of the message that begins at `at`, with its type and length. */
function sizeOf(data: Buffer, at: number): number {
  const length = data.readUInt32BE(at + 1)
  if (length < 4) throw new RangeError(`Expected a protocol message of at least 4 bytes, found a length of ${length}.`)
  return 1 + length
}
