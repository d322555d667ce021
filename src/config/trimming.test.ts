import { expect, test } from 'vitest'
import { DEFAULT_TRIM, trimPolicyOf } from './trimming.js'

const NONE = {
  ...{ retention: undefined, maxFinished: undefined, maxLength: undefined, trimAtMemory: undefined },
  ...{ deadLetterRetention: undefined, groups: [] },
}

test('a stream without settings has the defaults where streams are trimmed by default, and keeps everything elsewhere', () => {
  expect(trimPolicyOf({}, 'orders', true)).toEqual({ ...NONE, ...DEFAULT_TRIM })
  expect(trimPolicyOf({}, 'orders', false)).toEqual(NONE)
})

test('the settings of a stream are over those of every stream, each by itself', () => {
  const streams = { '*': { retention: 5, groups: ['audit'] }, orders: { maxFinished: 7, maxLength: 9 } }
  expect(trimPolicyOf(streams, 'orders', false)).toEqual({
    ...{ ...NONE, retention: 5, maxFinished: 7, maxLength: 9, groups: ['audit'] },
  })
  expect(trimPolicyOf(streams, 'users', true)).toEqual({ ...NONE, retention: 5, groups: ['audit'] })
})

test('a retention of 0 keeps everything, unless a number is given', () => {
  expect(trimPolicyOf({ orders: { retention: 0 } }, 'orders', true)).toEqual(NONE)
  expect(trimPolicyOf({ orders: { retention: 0, maxFinished: 3 } }, 'orders', true)).toEqual({
    ...NONE,
    maxFinished: 3,
  })
})

test('a number alone has the default retention beside it only where streams are trimmed by default', () => {
  const streams = { orders: { maxFinished: 3 } }
  expect(trimPolicyOf(streams, 'orders', true)).toEqual({ ...NONE, ...DEFAULT_TRIM, maxFinished: 3 })
  expect(trimPolicyOf(streams, 'orders', false)).toEqual({ ...NONE, maxFinished: 3 })
})

test('a percentage of the memory is set where it is given, beside the defaults; 0 is none', () => {
  expect(trimPolicyOf({ orders: { trimAtMemory: 50 } }, 'orders', true)).toMatchObject({
    ...{ ...DEFAULT_TRIM, trimAtMemory: 50 },
  })
  expect(trimPolicyOf({ orders: { trimAtMemory: 0 } }, 'orders', true)).toEqual({
    ...{ ...NONE, ...DEFAULT_TRIM },
  })
  expect(trimPolicyOf({ '*': { trimAtMemory: 70 }, orders: { trimAtMemory: 0 } }, 'orders', false)).toEqual(NONE)
  expect(trimPolicyOf({ orders: { trimAtMemory: 50 } }, 'orders', false)).toEqual({ ...NONE, trimAtMemory: 50 })
})
