import { expect, test } from 'vitest'
import { ZERO_POSITION } from '../../event/position.js'
import { LookSchedule, type ReachedStream } from './look-schedule.js'

const streams = (count: number): ReachedStream[] => Array.from({ length: count }, (_, n) => [`s${n}`, ZERO_POSITION])

test('a stream is due at once, then after its interval, or when it is told to be', () => {
  const schedule = new LookSchedule()
  const taken = (now: number) => schedule.take(streams(2), now, () => 60).map(([key]) => key)
  expect([taken(1), taken(60), taken(61)]).toEqual([['s0', 's1'], [], ['s0', 's1']])
  schedule.setDue('s0', 500)
  expect([taken(121), taken(181), taken(500)]).toEqual([['s1'], ['s1'], ['s0', 's1']])
  schedule.setDueBy('s0', 510)
  schedule.setDueBy('s0', 530)
  schedule.setDueBy('s1', 900)
  expect([taken(509), taken(510), taken(560)]).toEqual([[], ['s0'], ['s1']])
})

test('of more streams than one tick has room for, each has its turn', () => {
  const schedule = new LookSchedule()
  const seen = new Set<string>()
  for (let now = 0; now < 100; now++) for (const [key] of schedule.take(streams(15_000), now, () => 60)) seen.add(key)
  expect(seen.size).toBe(15_000)
})
