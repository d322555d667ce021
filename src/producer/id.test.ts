import { expect, it } from 'vitest'
import { newId } from './id.js'

const V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

const millisOf = (id: string): number => Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)

it('makes UUIDs of version 7 that tell the time', () => {
  const before = Date.now()
  const id = newId()
  expect(id).toMatch(V7)
  expect(millisOf(id)).toBeGreaterThanOrEqual(before)
  expect(millisOf(id)).toBeLessThanOrEqual(Date.now() + 1)
})

it('makes them in ascending order, also thousands in one millisecond and while the clock steps back', () => {
  const start = Date.now() + 60_000
  const ids = [
    ...Array.from({ length: 20_000 }, () => newId(start)),
    ...Array.from({ length: 1000 }, (_, step) => newId(start - step)),
    newId(start + 60_000),
  ]
  expect(ids.filter((id) => !V7.test(id))).toEqual([])
  expect(ids).toEqual([...ids].sort())
  expect(new Set(ids).size).toBe(ids.length)
  expect(millisOf(ids.at(-1)!)).toBe(start + 60_000)
})

it('makes 2,048 in any millisecond before it runs ahead of the clock', () => {
  const start = Date.now() + 600_000
  for (let millis = start; millis < start + 20; millis++) {
    const ids = Array.from({ length: 2048 }, () => newId(millis))
    expect(millisOf(ids[0]!)).toBe(millis)
    expect(millisOf(ids.at(-1)!)).toBe(millis)
  }
})
