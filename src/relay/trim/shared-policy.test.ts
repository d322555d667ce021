import { expect, test } from 'vitest'
import { policyText, sharedPolicy } from './shared-policy.js'

const policy = (more: object) => ({
  ...{ retention: undefined, maxFinished: undefined, maxLength: undefined, trimAtMemory: undefined },
  ...{ deadLetterRetention: undefined, groups: [] },
  ...more,
})

test('lineages that share a stream keep what any of them keeps, and wait for the groups of all', () => {
  const own = policy({ retention: 10, maxFinished: 5, trimAtMemory: 70, groups: ['billing'] })
  const other = policyText(policy({ retention: 20, trimAtMemory: 80, groups: ['mail', 'billing'] }))
  expect(sharedPolicy(own, [other])).toEqual({
    ...{ retention: 20, maxFinished: undefined, maxLength: undefined, trimAtMemory: 80, groups: ['billing', 'mail'] },
  })
  expect(sharedPolicy(own, [])).toEqual(own)
})

test('a lineage that trims nothing, or says what this version does not know, has everything kept', () => {
  const own = policy({ retention: 10, maxFinished: 5, maxLength: 9, trimAtMemory: 70 })
  for (const text of [policyText(policy({})), '', '{"retention":"long"}']) {
    expect(sharedPolicy(own, [text])).toMatchObject({
      retention: undefined,
      maxFinished: undefined,
      maxLength: undefined,
      trimAtMemory: undefined,
    })
  }
})
