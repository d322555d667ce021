import fc from 'fast-check'
import { expect, test } from 'vitest'
import { compareIds } from '../../event/entry-id.js'
import { MIN_AGE_MS, planTrim, type TrimFacts } from './trim-plan.js'

const NOW = 1_700_000_000_000
const ago = (ms: number) => `${NOW - ms}-0`
const DAY = 86_400_000

const NONE = { retention: undefined, maxFinished: undefined, maxLength: undefined }

const facts = (more: Partial<TrimFacts>): TrimFacts => ({
  ...{ now: NOW, length: 100, first: ago(9 * DAY), groups: [], missing: [], memory: undefined },
  policy: { retention: 7 * DAY, maxFinished: undefined, maxLength: undefined },
  ...more,
})

const group = (name: string, floor: string, unfinished?: number) => ({ name, floor, unfinished })

test('entries that are older than the retention go when every group has finished them', () => {
  const groups = [group('billing', ago(DAY), 3), group('mail', ago(2 * DAY), 1)]
  expect(planTrim(facts({ groups }))).toEqual({
    step: { upTo: ago(7 * DAY), most: undefined },
    cut: undefined,
    overdueMs: 2 * DAY,
    heldBy: undefined,
  })
})

test('an entry that one group has not finished stays, with all that follow, whatever its age', () => {
  const groups = [group('billing', ago(DAY)), group('mail', ago(8 * DAY))]
  expect(planTrim(facts({ groups })).step).toEqual({ upTo: ago(8 * DAY), most: undefined })
})

test('where the first entry is not finished nothing goes, and the group that holds it up is named', () => {
  const groups = [group('billing', ago(DAY)), group('mail', ago(9 * DAY))]
  expect(planTrim(facts({ groups }))).toMatchObject({ step: undefined, overdueMs: 2 * DAY, heldBy: groups[1] })
})

test('a group that Redis has lost holds up trimming where it was', () => {
  const missing = [{ name: 'mail', floor: '0-0' }]
  expect(planTrim(facts({ groups: [group('billing', ago(DAY))], missing }))).toMatchObject({
    ...{ step: undefined, overdueMs: 2 * DAY },
    heldBy: missing[0],
  })
})

test('without any group the age decides alone', () => {
  expect(planTrim(facts({})).step).toEqual({ upTo: ago(7 * DAY), most: undefined })
  const policy = { ...NONE, maxFinished: 10 }
  expect(planTrim(facts({ policy })).step).toBeUndefined()
})

test('more finished entries than are kept go, though they are younger than the retention', () => {
  const policy = { ...NONE, retention: 7 * DAY, maxFinished: 50 }
  const groups = [group('billing', ago(1_000), 20), group('mail', ago(DAY), 5)]
  expect(planTrim(facts({ first: ago(2 * DAY), policy, groups })).step).toEqual({ upTo: ago(DAY), most: 30 })
})

test('a trim for the number leaves what is younger than ten minutes', () => {
  const policy = { ...NONE, maxFinished: 1 }
  const groups = [group('billing', ago(0), 0)]
  expect(planTrim(facts({ first: ago(MIN_AGE_MS + 1), policy, groups })).step?.upTo).toBe(ago(MIN_AGE_MS))
  expect(planTrim(facts({ first: ago(MIN_AGE_MS), policy, groups })).step).toBeUndefined()
})

test('a group whose unfinished entries cannot be counted, or that is missing, may have any number of them', () => {
  const policy = { ...NONE, maxFinished: 1 }
  expect(planTrim(facts({ policy, groups: [group('billing', ago(0))] })).step).toBeUndefined()
  const missing = [{ name: 'mail', floor: ago(DAY) }]
  expect(planTrim(facts({ policy, groups: [group('billing', ago(0), 0)], missing })).step).toBeUndefined()
})

test('a stream with more entries than it may have is cut, whatever its groups have finished, and first what they have', () => {
  const policy = { ...NONE, maxLength: 90 }
  expect(planTrim(facts({ policy, groups: [group('billing', '0-1', 100)] })).cut).toEqual({ maxLength: 90 })
  expect(planTrim(facts({ policy, groups: [group('billing', ago(DAY), 5)] })).cut).toEqual({
    maxLength: 90,
    finished: { upTo: ago(DAY), most: 10 },
  })
  expect(planTrim(facts({ policy: { ...NONE, maxLength: 100 } })).cut).toBeUndefined()
})

test('an empty stream, and one without limits, are left alone', () => {
  const nothing = { step: undefined, cut: undefined, overdueMs: 0, heldBy: undefined }
  expect(planTrim(facts({ length: 0, first: '0-0' }))).toEqual(nothing)
  expect(planTrim(facts({ policy: NONE }))).toEqual(nothing)
})

test('no plan ever passes what a group has not finished', () => {
  const id = fc.tuple(fc.integer({ min: 0, max: 10 * DAY }), fc.nat(3)).map(([ms, n]) => `${NOW - ms}-${n}`)
  const floors = fc.array(
    fc.record({ name: fc.string(), floor: id, unfinished: fc.option(fc.nat(100), { nil: undefined }) }),
  )
  const policy = fc.record({
    retention: fc.option(fc.integer({ min: 1, max: 10 * DAY }), { nil: undefined }),
    maxFinished: fc.option(fc.integer({ min: 1, max: 100 }), { nil: undefined }),
  })
  fc.assert(
    fc.property(id, fc.nat(200), floors, floors, policy, (first, length, groups, missing, limits) => {
      const { step } = planTrim(facts({ first, length, groups, missing, policy: { ...NONE, ...limits } }))
      if (step)
        for (const { floor } of [...groups, ...missing]) expect(compareIds(step.upTo, floor)).toBeLessThanOrEqual(0)
    }),
  )
})
