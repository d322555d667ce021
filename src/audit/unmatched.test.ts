import { expect, test } from 'vitest'
import { Comparison } from './comparison.js'
import { Flag, Unmatched } from './unmatched.js'

/** Numbers that look random and are the same each time. */
function sequence(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

test('it holds what a Map holds, whatever is inserted, removed and dropped, also where hashes collide', () => {
  const next = sequence(7)
  const unmatched = new Unmatched()
  const model = new Map<string, number>()
  // Few homes, so that probes are long and removals move others.
  const keyOf = (n: number) => ({ high: n % 1_000, low: 4_090 + (n % 9) })
  const wrong: number[] = []
  for (let step = 0; step < 60_000; step++) {
    const key = keyOf(next(9_000))
    const name = `${key.high}-${key.low}`
    const at = unmatched.find(key)
    if (at >= 0 !== model.has(name)) wrong.push(step)
    if (at < 0 && unmatched.size < 300) {
      unmatched.insert(key, { content: step, time: 0 }, Flag.row)
      model.set(name, step)
    } else if (at >= 0) {
      if (unmatched.digest(at).content !== model.get(name)) wrong.push(step)
      unmatched.remove(at)
      model.delete(name)
    }
    if (unmatched.size !== model.size) wrong.push(step)
  }
  expect(wrong).toEqual([])
  unmatched.keep((high) => high < 500)
  for (const name of [...model.keys()]) if (Number(name.split('-')[0]) >= 500) model.delete(name)
  expect([...unmatched.all()]).toHaveLength(model.size)
  expect(model.size).toBeGreaterThan(50)
})

test('it grows, and what it held is found again', () => {
  const unmatched = new Unmatched()
  for (let n = 1; n <= 20_000; n++) unmatched.insert({ high: n, low: n * 7 }, { content: n, time: 1 }, n % 8)
  let found = 0
  for (let n = 1; n <= 20_000; n++) {
    const at = unmatched.find({ high: n, low: n * 7 })
    if (unmatched.digest(at).content === n && unmatched.flags(at) === n % 8) found += 1
  }
  expect(found).toBe(20_000)
})

test('the shares that are split off are all events, each in one of them', () => {
  const next = sequence(3)
  const events = Array.from({ length: 500 }, () => ({ high: next(2 ** 32), low: next(2 ** 32) }))
  const shares = [{ bits: 0, value: 0 }]
  const seen: number[] = []
  for (let share = shares.pop(); share; share = shares.pop()) {
    const comparison = new Comparison(share, 60, (other) => shares.push(other))
    for (const event of events) if (comparison.accepts(event)) comparison.row(event, { content: 1, time: 0 }, 0)
    expect(comparison.unmatched.size).toBeLessThanOrEqual(60)
    seen.push(comparison.unmatched.size)
  }
  expect(seen.length).toBeGreaterThan(8)
  expect(seen.reduce((sum, size) => sum + size, 0)).toBe(500)
})
