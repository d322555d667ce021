import { expect, it } from 'vitest'
import { BufferPool } from './buffer-pool.js'

it('a buffer that was given back is taken again, for anything that fits into it and no other half its size', () => {
  const pool = new BufferPool(1_000_000)
  const buffer = pool.take(5_000)
  expect(buffer.length).toBe(8_192)
  pool.give(buffer)
  expect(pool.bytes).toBe(8_192)
  expect(pool.take(4_096)).not.toBe(buffer)
  expect(pool.take(8_193)).not.toBe(buffer)
  expect(pool.take(8_192)).toBe(buffer)
  expect(pool.bytes).toBe(0)
})

it('no more is kept than may be, and no buffer above 1 MiB', () => {
  const pool = new BufferPool(20_000)
  const buffers = [pool.take(8_192), pool.take(8_192), pool.take(8_192)]
  for (const buffer of buffers) pool.give(buffer)
  expect(pool.bytes).toBe(16_384)
  const large = new BufferPool(10_000_000)
  const exact = large.take(1_048_577)
  expect(exact.length).toBe(1_048_577)
  large.give(exact)
  expect(large.bytes).toBe(0)
})
