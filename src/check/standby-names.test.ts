import { describe, expect, test } from 'vitest'
import { matchesStandby, parseStandbyNames, withoutStandby } from './standby-names.js'

const RELAY = 'outrider outrider_shop'

describe('synchronous_standby_names', () => {
  test.each([
    ['', false],
    ['*', true],
    ['"*"', true],
    ['replica1, replica2', false],
    ['FIRST 1 (replica1, *)', true],
    ['any 2 (replica1, "outrider outrider_shop")', true],
    ['2 ("Outrider OUTRIDER_shop", b)', true],
    ['outrider', false],
    ['first', false],
    ['"a ""quoted"" name"', false],
  ])('%s: the relay is waited for: %s', (setting, expected) => {
    expect(matchesStandby(parseStandbyNames(setting), RELAY)).toBe(expected)
  })

  test.each([
    ['*', [], ''],
    ['*', ['replica1', 'my replica'], 'replica1, "my replica"'],
    ['FIRST 1 (replica1, *)', ['other'], 'FIRST 1 (replica1)'],
    ['ANY 1 ("outrider outrider_shop", b)', [], 'ANY 1 (b)'],
    ['"outrider outrider_shop"', ['replica1'], ''],
    ['*, "with ""quotes"""', [], '"with ""quotes"""'],
  ])('%s with %j connected becomes %s', (setting, standbys, expected) => {
    expect(withoutStandby(parseStandbyNames(setting), RELAY, standbys)).toBe(expected)
  })
})
