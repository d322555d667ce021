import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DeadLetter, decide, exponential, Retry, textOf } from './retry.js'

const policy = { maxAttempts: 5, retryFor: 60_000, backoff: (attempt: number) => attempt * 100 }

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

describe('what becomes of an event whose attempt failed', () => {
  it('is another attempt after the backoff, up to the last', () => {
    expect(decide(new Error('boom'), 1, 0, policy)).toEqual({ retry: 100 })
    expect(decide(new Error('boom'), 4, 0, policy)).toEqual({ retry: 400 })
    expect(decide(new Error('boom'), 5, 0, policy)).toEqual({ bury: 'attempts_exhausted', error: 'Error: boom' })
    expect(decide('not even an error', 5, 0, policy)).toEqual({
      bury: 'attempts_exhausted',
      error: 'not even an error',
    })
    expect(decide(undefined, 1, 0, { ...policy, maxAttempts: 1 })).toMatchObject({ bury: 'attempts_exhausted' })
  })

  it('is another attempt until its time is over, the last one at its end', () => {
    const byTime = { ...policy, maxAttempts: Number.POSITIVE_INFINITY }
    expect(decide(new Error('boom'), 900, 59_950, byTime)).toEqual({ retry: 50 })
    expect(decide(new Error('boom'), 901, 60_000, byTime)).toEqual({ bury: 'attempts_exhausted', error: 'Error: boom' })
    expect(decide(new Error('boom'), 1, 0, { ...byTime, retryFor: 0 })).toMatchObject({ bury: 'attempts_exhausted' })
    // What a handler asks for is not cut.
    expect(decide(new Retry({ after: '10m' }), 900, 59_950, byTime)).toEqual({ retry: 600_000 })
  })

  it('is what a Retry asks for, which counts as an attempt like any other', () => {
    expect(decide(new Retry({ after: '10m' }), 1, 0, policy)).toEqual({ retry: 600_000 })
    expect(decide(new Retry({ after: 0 }), 4, 0, policy)).toEqual({ retry: 0 })
    const cause = new Error('busy')
    expect(decide(new Retry({ after: '1s', cause }), 5, 0, policy)).toEqual({
      bury: 'attempts_exhausted',
      error: 'Retry: To be tried again after 1s; caused by Error: busy',
    })
  })

  it('is its death where a DeadLetter says so, at the first attempt', () => {
    expect(decide(new DeadLetter('no such customer'), 1, 0, policy)).toEqual({
      bury: 'no such customer',
      error: 'DeadLetter: no such customer',
    })
    const cause = new Error('404')
    expect(decide(new DeadLetter('gone', { cause }), 1, 0, policy)).toEqual({ bury: 'gone', error: 'Error: 404' })
  })

  it('is not decided by a Retry without a time', () => {
    for (const after of ['soon', '', -1, Number.NaN, undefined]) {
      expect(() => new Retry({ after: after as never })).toThrow(
        /Expected Retry's after as a duration such as 30s or 10m, found/,
      )
    }
  })
})

describe('the text of an error in a dead letter', () => {
  it('tells names, messages and causes, and no stack', () => {
    const error = new Error('outer', { cause: new TypeError('inner', { cause: 'a text' }) })
    expect(textOf(error)).toBe('Error: outer; caused by TypeError: inner; caused by a text')
  })

  it('ends, also where causes go round in a circle, and is bounded', () => {
    const error = new Error('round')
    error.cause = error
    expect(textOf(error)).toBe(Array(5).fill('Error: round').join('; caused by '))
    expect(textOf(new Error('x'.repeat(1_000_000)))).toHaveLength(4_096)
  })

  it('holds no password of a URL, wherever the text is cut', () => {
    const url = 'postgres://shop:hunter2@db.internal/shop'
    const cause = new Error(`redis://:s3cret@cache:6379 and ${url}`)
    expect(textOf(new Error(`cannot reach ${url}`, { cause }))).toBe(
      'Error: cannot reach postgres://shop:***@db.internal/shop; caused by Error: redis://:***@cache:6379 and ' +
        'postgres://shop:***@db.internal/shop',
    )
    for (let length = 4_060; length < 4_096; length++) {
      expect(textOf(new Error(`${'x'.repeat(length)} ${url}`))).not.toContain('hunter')
    }
  })
})
