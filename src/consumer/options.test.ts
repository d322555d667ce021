import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { defineEvent } from '../event/define.js'
import { countOf, durationOf } from './duration.js'
import { type ConsumerOptions, settingsOf } from './options.js'

const db = { transaction: () => Promise.reject(new Error('not in this test')) }
const settings = (options: Record<string, unknown> = {}, maxTransactions?: number) =>
  settingsOf({ redis: 'redis://localhost', db, group: 'billing', ...options } as ConsumerOptions, maxTransactions)

describe('the options of a consumer', () => {
  it('have defaults', () => {
    const { name, backoff, skip, ...rest } = settings()
    expect(rest).toEqual({
      group: 'billing',
      concurrency: 10,
      prefetch: undefined,
      maxAttempts: Number.POSITIVE_INFINITY,
      retryFor: 24 * 3_600_000,
      claimAfter: 30_000,
      ordered: false,
      maxPending: 1_000,
      startFrom: 'beginning',
      versionGrace: 15 * 60_000,
      inboxWindow: 7 * 24 * 3_600_000,
      stopTimeout: 30_000,
    })
    expect([...skip]).toEqual([])
    expect(name).toMatch(new RegExp(`^[!-~]+-${process.pid}-[a-z0-9]+$`))
    expect(settings().name).not.toBe(name)
    // From a ceiling of a second to one of an hour, and never below half of it.
    const pauses = Array.from({ length: 200 }, () => [backoff(1), backoff(100)] as const)
    expect(Math.max(...pauses.map(([first]) => first))).toBeLessThanOrEqual(1_000)
    expect(Math.max(...pauses.map(([, last]) => last))).toBeLessThanOrEqual(3_600_000)
    expect(Math.min(...pauses.map(([, last]) => last))).toBeGreaterThanOrEqual(1_800_000)
  })

  it('are taken as they are given, durations as people write them', () => {
    const Left = defineEvent({ stream: 'guests', type: 'guest.left', version: 1, data: z.undefined() })
    const startFrom = new Date('2026-01-02T00:00:00Z')
    const given = {
      concurrency: 3,
      prefetch: 7,
      maxAttempts: 2,
      maxPending: 5,
      ordered: true,
      name: 'worker-1',
      startFrom,
    }
    const durations = { claimAfter: '2s', versionGrace: 0, inboxWindow: '72h', stopTimeout: 500 }
    const { skip, ...rest } = settings({ ...given, ...durations, skip: ['guest.came', Left], backoff: () => '1.5s' })
    expect(rest).toMatchObject({
      ...given,
      claimAfter: 2_000,
      // In order, a subject is held up for less.
      retryFor: 3_600_000,
      versionGrace: 0,
      inboxWindow: 259_200_000,
      stopTimeout: 500,
    })
    expect([...skip]).toEqual(['guest.came', 'guest.left'])
    expect(rest.backoff(1)).toBe(1_500)
  })

  it.each<[Record<string, unknown>, string]>([
    [{ group: undefined }, 'Expected group as a letter or digit, then letters, .* found undefined'],
    [{ group: 'a b' }, 'Expected group as .*, found "a b"'],
    [{ group: `a${'x'.repeat(100)}` }, 'Expected group as .*100 at most, found "axxx'],
    [{ name: 'a b' }, 'Expected name as 1 to 200 printable ASCII characters without spaces, found "a b"'],
    [{ name: '' }, 'Expected name as .*, found ""'],
    [{ concurrency: 0 }, 'Expected concurrency as a whole number from 1 to 10000, found 0'],
    [{ concurrency: 1.5 }, 'Expected concurrency as .*, found 1.5'],
    [{ concurrency: '4' }, 'Expected concurrency as .*, found "4"'],
    [{ prefetch: 0 }, 'Expected prefetch as a whole number from 1 to 10000, found 0'],
    [{ prefetch: 3, concurrency: 4 }, 'Expected prefetch at or above concurrency \\(4\\), found 3'],
    [{ maxAttempts: 0 }, 'Expected maxAttempts as a whole number from 1 to 1000, found 0'],
    [{ maxPending: -1 }, 'Expected maxPending as a whole number from 1 to 1000000, found -1'],
    [
      { claimAfter: 'soon' },
      'Expected claimAfter as a duration such as 500ms, 30s or 10m, at least 100 ms and at most 3600000 ms, found "soon"',
    ],
    [{ claimAfter: 99 }, 'Expected claimAfter as .* at least 100 ms and at most 3600000 ms, found 99'],
    [{ claimAfter: '2h' }, 'Expected claimAfter as .* at most 3600000 ms, found "2h"'],
    [{ versionGrace: -1 }, 'Expected versionGrace as a duration .*, found -1'],
    [{ inboxWindow: 999 }, 'Expected inboxWindow as .* at least 1000 ms, found 999'],
    [{ stopTimeout: '30 seconds' }, 'Expected stopTimeout as a duration .*, found "30 seconds"'],
    [{ startFrom: 'end' }, "Expected startFrom as 'beginning', 'now' or a valid Date, found \"end\""],
    [{ startFrom: new Date('never') }, 'Expected startFrom as .*, found something else'],
    [{ ordered: 'yes' }, 'Expected ordered as true or false, found "yes"'],
    [{ skip: 'guest.left' }, 'Expected skip as an array of types or definitions, found "guest.left"'],
    [{ skip: ['guest.left', null] }, 'Expected skip as an array of types or definitions, found something else'],
    [{ skip: ['*.left'] }, 'Expected skip as types with a \\* at their end only, found something else'],
    [{ wrap: {} }, 'Expected wrap as a function, found something else'],
    [{ logger: {} }, 'Expected logger as an object with the methods debug, info, warn, error, found something else'],
    [{ logger: null }, 'Expected logger as an object'],
    [{ backoff: '5s' }, 'Expected backoff as { min, max } or a function, found "5s"'],
    [{ backoff: { min: 'soon' } }, 'Expected backoff.min as a duration .*, found "soon"'],
    [{ backoff: { min: 0 } }, 'Expected backoff.min as a duration .* at least 1 ms, found 0'],
    [
      { backoff: { min: '2s', max: '1s' } },
      'Expected backoff.max at or above backoff.min \\(2000 ms\\), found 1000 ms',
    ],
    [{ concurency: 4 }, 'Expected one of the options redis, db, group, concurrency, .*, found concurency'],
  ])('are refused with what was expected and what was found: %o', (options, message) => {
    expect(() => settings(options)).toThrow(TypeError)
    expect(() => settings(options)).toThrow(new RegExp(message.replace(/[{}]/g, '\\$&')))
  })

  it('keep concurrency within the pool and prefetch', () => {
    expect(settings({}, 4).concurrency).toBe(4)
    expect(settings({}, 20).concurrency).toBe(10)
    expect(settings({ prefetch: 3 }, 20).concurrency).toBe(3)
    expect(settings({ concurrency: 4 }, 4).concurrency).toBe(4)
    expect(settings({ concurrency: 500 }).concurrency).toBe(500)
    expect(() => settings({ concurrency: 5 }, 4)).toThrow(
      'Expected concurrency at or below the 4 connections of the pool, found 5. Give the pool more (new Pool({ max: 5 })), ' +
        'or lower concurrency.',
    )
  })

  it('leave an ordered consumer a connection for its leases', () => {
    expect(settings({ ordered: true }, 4).concurrency).toBe(3)
    expect(settings({ ordered: true, concurrency: 3 }, 4).concurrency).toBe(3)
    expect(() => settings({ ordered: true, concurrency: 4 }, 4)).toThrow(
      /below the 4 connections of the pool, of which .* leases, found 4. Give the pool more \(new Pool\({ max: 5 }\)\)/,
    )
    expect(() => settings({ ordered: true }, 1)).toThrow(/below the 1 connections .*new Pool\({ max: 2 }\)/)
  })
})

it('a duration is as in 500ms, 30s, 10m, 72h, 7d, or a number of milliseconds', () => {
  const given = ['500ms', '30s', '10m', '72h', '7d', 250]
  expect(given.map((value) => durationOf('after', value))).toEqual([
    500, 30_000, 600_000, 259_200_000, 604_800_000, 250,
  ])
  for (const wrong of ['', '5 parsecs', -5, 0, Number.NaN, null, {}]) {
    expect(() => durationOf('after', wrong as never)).toThrow(/^Expected after as a duration such as 500ms/)
  }
  for (const wrong of ['10', ' 1.5 ', '0']) {
    expect(() => durationOf('after', wrong)).toThrow(`found ${JSON.stringify(wrong)} without a unit`)
  }
})

it('a count is a whole number within its bounds', () => {
  expect([1, 5].map((count) => countOf('size', count, 1, 5))).toEqual([1, 5])
  for (const wrong of [0, 6, 2.5, Number.NaN, '3', null]) {
    expect(() => countOf('size', wrong as never, 1, 5)).toThrow(/^Expected size as a whole number from 1 to 5, found/)
  }
})
