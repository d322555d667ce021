import { describe, expect, it } from 'vitest'
import { BUCKETS, type BucketAnswer, type BucketFacts } from '../../postgres/outbox/buckets.js'
import {
  blockedBy,
  keptFor,
  planExcess,
  planRetention,
  type RetentionSettings,
  retentionLag,
} from './retention-plan.js'

const HOUR = 3_600_000
const GIB = 1_073_741_824

const SETTINGS: RetentionSettings = { retention: 72 * HOUR, retentionMaxSize: 50 * GIB, isRetentionSet: false }

/** Two of the four hours of the bucket have passed. */
const facts = (more: Partial<BucketFacts> = {}): BucketFacts => ({
  now: 1_000 * 4 * HOUR + 2 * HOUR,
  readAt: 0,
  current: 12,
  bucketMs: 4 * HOUR,
  isSetUp: true,
  predatesRetention: false,
  emptiedUntil: undefined,
  buckets: BUCKETS.map((bucket) => ({ bucket, bytes: GIB, isEmpty: false })),
  ...more,
})

const sized = (bytes: number) => BUCKETS.map((bucket) => ({ bucket, bytes, isEmpty: false }))

describe('the buckets that are asked for', () => {
  it('are the oldest first, and never the one of now, the one before and the one after', () => {
    const plan = planRetention(facts(), SETTINGS, true)
    const buckets = [14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    expect(plan).toEqual({ action: 'empty', windowMs: 72 * HOUR, buckets })
    expect(planRetention(facts({ current: 0 }), SETTINGS, true)).toMatchObject({ buckets: BUCKETS.slice(2, 23) })
  })

  it('are none that is empty', () => {
    const buckets = BUCKETS.map((bucket) => ({ bucket, bytes: 8_192, isEmpty: bucket !== 3 && bucket !== 12 }))
    expect(planRetention(facts({ buckets }), SETTINGS, true)).toMatchObject({ buckets: [3] })
  })

  it('are emptied by checkpoints as old as the window, which the buckets bound', () => {
    const windowOf = (retention: number) => planRetention(facts(), { ...SETTINGS, retention }, true)
    expect(windowOf(HOUR)).toMatchObject({ windowMs: HOUR })
    expect(windowOf(168 * HOUR)).toMatchObject({ windowMs: 80 * HOUR })
  })
})

describe('nothing is asked for', () => {
  it.each<[string, Partial<BucketFacts>, Partial<RetentionSettings>, boolean]>([
    ['setting_off', {}, { retention: 0, isRetentionSet: true }, true],
    ['not_asked', { predatesRetention: true }, {}, true],
    ['setup', { isSetUp: false }, {}, true],
    ['clock_changed', {}, {}, false],
  ])('because of %s', (reason, known, settings, isClockTrusted) => {
    expect(planRetention(facts(known), { ...SETTINGS, ...settings }, isClockTrusted)).toEqual({
      action: 'keep',
      reason,
    })
  })

  it('but an installation from before retention is emptied once its settings ask for it', () => {
    const settings = { ...SETTINGS, isRetentionSet: true }
    expect(planRetention(facts({ predatesRetention: true }), settings, true)).toMatchObject({ action: 'empty' })
  })
})

describe('a table that is too large', () => {
  it('is none within the limit', () => {
    expect(planExcess(facts(), SETTINGS)).toEqual([])
    expect(planExcess(facts({ buckets: sized(2 * GIB) }), SETTINGS)).toEqual([])
  })

  it('shrinks from its oldest bucket on, by checkpoints from one bucket after it, and never within the last whole bucket', () => {
    const attempts = planExcess(facts({ buckets: sized(3 * GIB) }), SETTINGS)
    expect(attempts.map(({ bucket }) => bucket)).toEqual([
      14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
    ])
    const hours = Object.fromEntries(
      attempts.map(({ bucket, windowsMs }) => [bucket, windowsMs.map((ms) => ms / HOUR)]),
    )
    // 22 buckets ago, but no older than the window; then 8, 3 and 2 buckets ago.
    expect([hours[14], hours[4], hours[9], hours[10]]).toEqual([[72, 6], [26, 6], [6], [6]])
  })

  it('keeps to the window where that is shorter than a bucket', () => {
    const attempts = planExcess(facts({ buckets: sized(3 * GIB) }), { ...SETTINGS, retention: HOUR })
    expect(attempts[0]).toEqual({ bucket: 14, windowsMs: [HOUR] })
  })
})

describe('the age up to which all rows are kept', () => {
  it('is the window, or less where younger rows were emptied', () => {
    const { now } = facts()
    const of = (emptiedUntil: number | undefined) => keptFor(facts({ emptiedUntil }), SETTINGS) / HOUR
    expect([of(undefined), of(now - 90 * HOUR), of(now - 30 * HOUR), of(now + HOUR)]).toEqual([72, 72, 30, 0])
  })
})

describe('the lag', () => {
  const lag = (hours: number | undefined, more = {}, settings = {}) =>
    retentionLag(hours && hours * HOUR, { ...facts(), ...more }, { ...SETTINGS, ...settings })

  it('is the time by which the oldest row has outlived the window and the time in which its bucket was filled', () => {
    expect([lag(undefined), lag(75), lag(76), lag(80)]).toEqual([0, 0, 0, 4 * HOUR])
    expect(lag(90, {}, { retention: 168 * HOUR })).toBe(6 * HOUR)
  })

  it('is none where rows are kept on purpose', () => {
    expect(lag(100, {}, { retention: 0 })).toBeUndefined()
    expect(lag(100, { predatesRetention: true })).toBeUndefined()
    expect(lag(100, { predatesRetention: true }, { isRetentionSet: true })).toBe(24 * HOUR)
  })
})

describe('what holds up retention', () => {
  const blocked = (bucket: number, answer: BucketAnswer, known: Partial<BucketFacts> = {}) =>
    blockedBy([{ bucket, answer }], facts(known), SETTINGS)

  it('is nothing while the rows of a bucket are younger than the window', () => {
    expect(blocked(10, 'in_use')).toBeUndefined()
    expect(blocked(18, 'checkpoint')).toBeUndefined()
  })

  it('is the reason of a bucket whose rows are older', () => {
    expect(blocked(14, 'in_use')).toBe('in_use')
    expect(blocked(14, 'checkpoint')).toBe('checkpoint')
  })

  it('is no row that is not proven to be published, unless the table is too large', () => {
    expect(blocked(14, 'unproven')).toBeUndefined()
    expect(blocked(10, 'unproven', { buckets: sized(3 * GIB) })).toBe('unproven')
  })

  it('is nothing once a bucket is empty', () => {
    expect(blocked(14, 'emptied')).toBeUndefined()
    expect(blocked(14, 'empty')).toBeUndefined()
  })
})
