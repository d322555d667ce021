import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FrameSplitter } from './frames.js'

/** Types of a server's messages: CopyData, CopyDone, ErrorResponse, ReadyForQuery, CopyBothResponse, NoticeResponse. */
const types = ['d', 'c', 'E', 'Z', 'W', 'N'] as const
const message = fc.record({
  type: fc.oneof(
    { weight: 3, arbitrary: fc.constant('d' as const) },
    { weight: 2, arbitrary: fc.constantFrom(...types) },
  ),
  body: fc.uint8Array({ maxLength: 64 }),
})
type Message = { type: string; body: Uint8Array }

function encode({ type, body }: Message): Buffer {
  const header = Buffer.alloc(5)
  header.write(type, 'latin1')
  header.writeUInt32BE(4 + body.length, 1)
  return Buffer.concat([header, body])
}

/** What comes of these chunks, as text; the bytes are looked at during the call only. */
function split(chunks: Buffer[]): string[] {
  const found: string[] = []
  const frames = new FrameSplitter({
    copyData: (data, start, end) => found.push(`d ${data.toString('hex', start, end)}`),
    other: (whole) => found.push(`other ${whole.toString('hex')}`),
  })
  // Each chunk in memory that is overwritten afterwards: nothing may be read from it later.
  for (const chunk of chunks) {
    const read = Buffer.from(chunk)
    frames.push(read)
    read.fill(0xff)
  }
  return found
}

const expected = (messages: Message[]) =>
  messages.map((each) =>
    each.type === 'd' ? `d ${Buffer.from(each.body).toString('hex')}` : `other ${encode(each).toString('hex')}`,
  )

function cut(bytes: Buffer, sizes: number[]): Buffer[] {
  const chunks: Buffer[] = []
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const end = at + (sizes[i % sizes.length] as number)
    chunks.push(bytes.subarray(at, end))
    at = end
  }
  return chunks
}

const BIG = 200_000

describe('the messages of a replication connection', () => {
  it('are the same however the socket cuts them: any mix of types, any chunks', () => {
    fc.assert(
      fc.property(
        fc.array(message, { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 20 }),
        (messages, sizes) => {
          expect(split(cut(Buffer.concat(messages.map(encode)), sizes))).toEqual(expected(messages))
        },
      ),
      { numRuns: 500 },
    )
  })

  it('are the same byte by byte, and when all come at once', () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 10 }), (messages) => {
        const bytes = Buffer.concat(messages.map(encode))
        expect(split(cut(bytes, [1]))).toEqual(expected(messages))
        expect(split([bytes])).toEqual(expected(messages))
      }),
    )
  })

  it('that are larger than a read of the socket come whole, and small ones behind them', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ type: fc.constantFrom(...types), size: fc.integer({ min: 0, max: BIG }) }), {
          maxLength: 4,
        }),
        fc.integer({ min: 1_000, max: 65_536 }),
        (sizes, read) => {
          const messages = sizes.flatMap(({ type, size }, i) => [
            { type, body: new Uint8Array(size).fill(i + 1) },
            { type: 'd', body: Uint8Array.of(i) },
          ])
          expect(split(cut(Buffer.concat(messages.map(encode)), [read]))).toEqual(expected(messages))
        },
      ),
      { numRuns: 20 },
    )
  })

  it('are handed over in place where a chunk holds the whole: no copy is made', () => {
    const chunk = Buffer.concat([{ type: 'd', body: Uint8Array.of(1, 2) }].map(encode))
    const buffers: Buffer[] = []
    new FrameSplitter({ copyData: (data) => buffers.push(data), other: () => {} }).push(chunk)
    expect(buffers).toEqual([chunk])
    expect(buffers[0]).toBe(chunk)
  })

  it('of a length that none can have are an error', () => {
    const wrong = Buffer.from([0x64, 0, 0, 0, 3, 0])
    expect(() => split([wrong])).toThrow('Expected a protocol message of at least 4 bytes, found a length of 3.')
    expect(() => split(cut(wrong, [1]))).toThrow(RangeError)
  })
})
