import { expect, test } from 'vitest'
import { assessTrimming } from './trimming.js'

const idsOf = (trims: boolean | undefined, streams: Parameters<typeof assessTrimming>[1]['streams']) =>
  assessTrimming({ trims }, { streams }).map(({ id }) => id)

test('an installation of an earlier version is told that it does not trim, unless it says for every stream what goes', () => {
  expect(idsOf(false, {})).toEqual(['streams-not-trimmed'])
  expect(idsOf(false, { '*': { groups: ['audit'] }, orders: { retention: 1 } })).toEqual(['streams-not-trimmed'])
  for (const every of [{ retention: 0 }, { maxFinished: 1 }, { maxLength: 1 }, { trimAtMemory: 70 }])
    expect(idsOf(false, { '*': every })).toEqual([])
  expect([...idsOf(true, {}), ...idsOf(undefined, {})]).toEqual([])
})
