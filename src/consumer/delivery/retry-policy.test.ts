import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { errorText, exponential, Retry } from './retry-policy.js'

describe('the pause before the next attempt', () => {
  it('is the second half of a ceiling, which doubles up to the longest', () => {
    const [most, least] = [exponential(100, 1_000, () => 1), exponential(100, 1_000, () => 0)]
    expect([1, 2, 3, 4, 5, 6].map(most)).toEqual([100, 200, 400, 800, 1_000, 1_000])
    expect([1, 2, 3, 4, 5, 6].map(least)).toEqual([50, 100, 200, 400, 500, 500])
    expect(exponential(100, 1_000, () => 0.5)(2)).toBe(150)
  })

  it('is a whole number of milliseconds within its bounds, however many attempts there were', () => {
    const attempts = fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 2 ** 31 }))
    const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
    const bounds = fc.tuple(fc.integer({ min: 1, max: 10_000 }), fc.integer({ min: 0, max: 1_000_000 }))
    fc.assert(
      fc.property(attempts, random, bounds, (attempt, chance, [min, more]) => {
        const pause = exponential(min, min + more, () => chance)(attempt)
        expect(Number.isInteger(pause)).toBe(true)
        const ceiling = Math.min(min + more, min * 2 ** (attempt - 1))
        expect(pause).toBeGreaterThanOrEqual(ceiling / 2)
        expect(pause).toBeLessThanOrEqual(ceiling)
      }),
    )
  })
})

describe('a Retry', () => {
  it('is refused without a time', () => {
    for (const after of ['soon', '', '10', -1, Number.NaN, undefined]) {
      expect(() => new Retry({ after: after as never })).toThrow(
        /^Expected Retry's after as a duration such as 500ms, 30s or 10m, .*, found/,
      )
    }
  })
})

describe('the text of an error in a dead letter', () => {
  it('tells names, messages and causes, and no stack', () => {
    const error = new Error('outer', { cause: new TypeError('inner', { cause: 'a text' }) })
    expect(errorText(error)).toBe('Error: outer; caused by TypeError: inner; caused by a text')
  })

  it('ends, also where causes go round in a circle, and is bounded', () => {
    const error = new Error('round')
    error.cause = error
    expect(errorText(error)).toBe(Array(5).fill('Error: round').join('; caused by '))
    expect(errorText(new Error('x'.repeat(1_000_000)))).toHaveLength(4_096)
  })

  it('holds no password of a URL, wherever the text is cut', () => {
    const url = 'postgres://shop:hunter2@db.internal/shop'
    const cause = new Error(`redis://:s3cret@cache:6379 and ${url}`)
    expect(errorText(new Error(`cannot reach ${url}`, { cause }))).toBe(
      'Error: cannot reach postgres://shop:***@db.internal/shop; caused by Error: redis://:***@cache:6379 and ' +
        'postgres://shop:***@db.internal/shop',
    )
    for (let length = 4_060; length < 4_096; length++) {
      expect(errorText(new Error(`${'x'.repeat(length)} ${url}`))).not.toContain('hunter')
    }
  })
})
