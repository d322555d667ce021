import fc from 'fast-check'
import { expect, it } from 'vitest'
import { anyText } from '../../../test/support/any-text.js'
import { STREAM_NAME } from '../../event/names.js'
import { StreamNames } from './stream-names.js'

const PARTITIONS = new Map([['bills', 3]])

function keysOf(names: StreamNames, name: string): readonly string[] {
  const amid = Buffer.from(`<${name}>`)
  return names.find(amid, 1, amid.length - 1).keys
}

it('a name has its keys, whatever names came before it, and one that no stream may bear has none', () => {
  const name = fc.oneof(fc.constantFrom('bills', 'a', 'b', 'orders'), fc.stringMatching(/^[a-z][a-z.-]{0,8}$/), anyText)
  fc.assert(
    fc.property(fc.array(name, { maxLength: 40 }), (all) => {
      const names = new StreamNames(PARTITIONS)
      for (const each of all) {
        const keys = each === 'bills' ? ['bills:0', 'bills:1', 'bills:2'] : [each]
        expect(keysOf(names, each)).toEqual(STREAM_NAME.test(each) ? keys : [])
      }
    }),
  )
})

it('two names of one hash are told apart', () => {
  // Both are 0x5e4daa9d under FNV-1a.
  const [one, other] = ['costarring', 'liquid']
  const names = new StreamNames(PARTITIONS)
  for (const each of [one, other, one, other]) expect(keysOf(names, each as string)).toEqual([each])
})

it('more names than are kept are still found', () => {
  const names = new StreamNames(PARTITIONS)
  for (let n = 0; n < 20_010; n++) names.find(Buffer.from(`s${n}`), 0, `s${n}`.length)
  expect(keysOf(names, 's1')).toEqual(['s1'])
  expect(keysOf(names, 's20009')).toEqual(['s20009'])
})
