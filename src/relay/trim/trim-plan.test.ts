import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compareIds } from '../../event/entry-id.js'
import { MIN_AGE_MS, planTrim, type TrimFacts } from './trim-plan.js'

const NOW = 1_700_000_000_000
const ago = (ms: number) => `${NOW - ms}-0`
const DAY = 86_400_000

const NONE = { retention: undefined, maxFinished: undefined, maxLength: undefined, trimAtMemory: undefined }

const facts = (more: Partial<TrimFacts>): TrimFacts => ({
  ...{ now: NOW, length: 100, first: ago(9 * DAY), groups: [], missing: [], memory: undefined },
  policy: { ...NONE, retention: 7 * DAY },
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
    isForMemory: false,
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

describe('while Redis has used more of its memory than the stream may have it use', () => {
  const policy = { ...NONE, trimAtMemory: 70 }
  const memory = { used: 71, max: 100 }
  const groups = [group('billing', ago(DAY), 20), group('mail', ago(2 * DAY), 5)]

  test('a quarter of what every group has finished goes, the oldest first', () => {
    expect(planTrim(facts({ policy, memory, groups }))).toMatchObject({
      ...{ step: { upTo: ago(2 * DAY), most: 20 }, isForMemory: true },
    })
  })

  test('nothing goes at the limit, without a limit, without a percentage, or where the memory is not known', () => {
    const steps = [
      { memory: { used: 70, max: 100 }, policy },
      { memory: { used: 71, max: undefined }, policy },
      { memory: undefined, policy },
      { memory, policy: NONE },
    ].map((more) => planTrim(facts({ groups, ...more })))
    for (const { step, isForMemory } of steps) expect([step, isForMemory]).toEqual([undefined, false])
  })

  test('what is younger than ten minutes stays, and all of a stream that no group reads', () => {
    const done = [group('billing', ago(0), 0)]
    expect(planTrim(facts({ policy, memory, groups: done })).step).toEqual({ upTo: ago(MIN_AGE_MS), most: 25 })
    expect(planTrim(facts({ policy, memory, groups: done, first: ago(MIN_AGE_MS) })).step).toBeUndefined()
    expect(planTrim(facts({ policy, memory })).step).toBeUndefined()
  })

  test('of a group whose unfinished entries cannot be counted, or that is missing, a quarter of the time before its floor goes', () => {
    const quarter = { upTo: ago(7 * DAY), most: undefined }
    expect(planTrim(facts({ policy, memory, groups: [group('billing', ago(DAY))] })).step).toEqual(quarter)
    const missing = [{ name: 'mail', floor: ago(DAY) }]
    expect(planTrim(facts({ policy, memory, groups: [group('billing', ago(0), 0)], missing })).step).toEqual(quarter)
    const floor = `${NOW - 9 * DAY}-5`
    expect(planTrim(facts({ policy, memory, groups: [group('billing', floor)] })).step?.upTo).toBe(floor)
  })

  test('what is too old goes first, and of two numbers the larger one', () => {
    const both = (more: object) => planTrim(facts({ memory, groups, policy: { ...policy, ...more } })).step
    expect(both({ retention: 7 * DAY })).toEqual({ upTo: ago(7 * DAY), most: undefined })
    expect(both({ maxFinished: 10 })?.most).toBe(70)
    expect(both({ maxFinished: 79 })?.most).toBe(20)
  })
})

test('an empty stream, and one without limits, are left alone', () => {
  const nothing = { step: undefined, cut: undefined, overdueMs: 0, heldBy: undefined, isForMemory: false }
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
    trimAtMemory: fc.option(fc.integer({ min: 1, max: 99 }), { nil: undefined }),
  })
  fc.assert(
    fc.property(id, fc.nat(200), floors, floors, policy, (first, length, groups, missing, limits) => {
      const memory = { used: 50, max: 100 }
      const { step } = planTrim(facts({ first, length, groups, missing, memory, policy: { ...NONE, ...limits } }))
      if (step)
        for (const { floor } of [...groups, ...missing]) expect(compareIds(step.upTo, floor)).toBeLessThanOrEqual(0)
    }),
  )
})
