import { PassThrough } from 'node:stream'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { PgParser } from './pg-parser.js'

const READY = Buffer.from([0x5a, 0, 0, 0, 5, 0x49])
const NOTICE = Buffer.concat([Buffer.from([0x4e, 0, 0, 0, 12]), Buffer.from('Shello\0\0')])

/** A stream that pg would read, the parser on it, and what the parser was given. */
function watched() {
  const stream = new PassThrough()
  const parsed: Buffer[] = []
  stream.on('data', (chunk: Buffer) => parsed.push(chunk))
  return { stream, parsed: () => Buffer.concat(parsed), parser: new PgParser(stream as never) }
}

/** Emits the bytes in chunks of these sizes. */
function feed(stream: PassThrough, bytes: Buffer, sizes: number[]): void {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const end = at + (sizes[i % sizes.length] as number)
    stream.emit('data', bytes.subarray(at, end))
    at = end
  }
}

it('the parser of pg can be taken off behind a ReadyForQuery only, however the bytes come', () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 5 })
  const tail = fc.constantFrom(Buffer.alloc(0), NOTICE, NOTICE.subarray(0, 3), READY.subarray(0, 5))
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 20 }), tail, sizes, (before, after, cut) => {
      const { stream, parser } = watched()
      expect(parser.isIdle).toBe(false)
      feed(stream, Buffer.concat([before, READY, after]), cut)
      expect(parser.isIdle).toBe(after.length === 0)
      if (after.length > 0) expect(() => parser.replace(() => {})).toThrow('Expected the parser of pg between two')
    }),
  )
})

it('once it is taken off, it is given messages and reads none from the stream', () => {
  const { stream, parsed, parser } = watched()
  const read: Buffer[] = []
  stream.emit('data', READY)
  parser.replace((chunk) => read.push(chunk))
  stream.emit('data', Buffer.from('from the server'))
  parser.parse(NOTICE)
  expect(Buffer.concat(read).toString()).toBe('from the server')
  expect(parsed()).toEqual(Buffer.concat([READY, NOTICE]))
})
