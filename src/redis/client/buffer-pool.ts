/**
 * Buffers that are used again, by powers of two: a batch of 100 KB is otherwise 100 KB of fresh pages, to be faulted in and
 * to be freed, a thousand times a second. What is kept is bounded; larger buffers are left to the garbage collector.
 */
const SMALLEST_BITS = 10
const LARGEST_BITS = 20

export class BufferPool {
  readonly #free: Buffer[][] = Array.from({ length: LARGEST_BITS + 1 }, () => [])
  readonly #maxBytes: number
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Bytes that are kept and not in use. */
  get bytes(): number {
    return this.#bytes
  }

  /** A buffer of at least so many bytes, with anything in it. */
  take(minBytes: number): Buffer {
    const bits = Math.max(SMALLEST_BITS, 32 - Math.clz32(minBytes - 1))
    if (bits > LARGEST_BITS) return Buffer.allocUnsafeSlow(minBytes)
    const buffer = this.#free[bits]?.pop()
    if (buffer === undefined) return Buffer.allocUnsafeSlow(2 ** bits)
    this.#bytes -= buffer.length
    return buffer
  }

  /** From here on someone else may write to it. */
  give(buffer: Buffer): void {
    const bits = 31 - Math.clz32(buffer.length)
    if (2 ** bits !== buffer.length || bits < SMALLEST_BITS || bits > LARGEST_BITS) return
    if (this.#bytes + buffer.length > this.#maxBytes) return
    this.#bytes += buffer.length
    this.#free[bits]?.push(buffer)
  }
}
